"""The compiled operators compute what torch's own operations compute, each image as if alone, and refuse the rest."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models.network.kernels import operators, selection
from models.network.kernels.attention import ProductAttention, grouped_attention
from models.network.kernels.operators import NativeAttention, NativeNorm, round8
from models.network.kernels.quantized import Grid8, QuantizedNorm
from models.network.kernels.selection import NormFuser, is_the_same_alone, select_attention, select_rounding
from models.network.packing import Packing
from models.network.positions.rotary import Rotary
from models.network.vit import Readout, script_of
from tests.bounds import LEAST_COSINE_TOGETHER, assert_equal_in_float32, assert_near
from tests.network.test_network import images, tiny
from tests.server import ROOT

CPU = torch.device("cpu")
LENGTHS = (1, 3, 15, 16, 17, 17, 32, 33, 64, 197)
HEADS = ((6, 64), (3, 80), (2, 72), (4, 32), (1, 128), (3, 20), (2, 2))

compiled = pytest.mark.skipif(operators.library() is None, reason="installed without a C compiler")
attending = pytest.mark.skipif(
    not operators.attends(torch.bfloat16), reason="no library, or a processor without AVX512-BF16"
)

WAYS = {
    "AMX": (torch.bfloat16, NativeAttention(True)),
    "AVX512-BF16": (torch.bfloat16, NativeAttention(False)),
    "float32": (torch.float32, NativeAttention()),
}
"""The dtypes of attention, and how it is computed; where there is no AMX the first two are the same."""


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> tuple[torch.dtype, NativeAttention]:
    dtype, attend = cast(tuple[torch.dtype, NativeAttention], request.param)
    if not operators.attends(dtype):
        pytest.skip(f"no library, or a processor without instructions for {dtype}")
    return dtype, attend


def example(
    heads: int, head_dim: int, lengths: tuple[int, ...] = LENGTHS, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor, Packing]:
    """Queries, keys and values as a projection returns them: side by side in each row."""
    torch.manual_seed(0)
    packing = Packing.from_lengths(lengths)
    q, k, v = (2 * torch.randn(sum(lengths), 3, heads, head_dim)).to(dtype).unbind(1)
    return q, k, v, packing


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="there is no C compiler")
def test_the_library_is_there_where_it_can_be_compiled() -> None:
    assert operators.library() is not None


@attending
@pytest.mark.parametrize("tiles", [True, False], ids=["AMX", "AVX512-BF16"])
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_attention_is_as_near_to_float32_as_torchs(heads: int, head_dim: int, tiles: bool) -> None:
    q, k, v, packing = example(heads, head_dim)
    for queries, asked in ((q, packing), (packing.leading_tokens(q, 1), packing.leading(1))):
        exact = grouped_attention(queries.float(), k.float(), v.float(), packing, asked)
        plain = grouped_attention(queries, k, v, packing, asked).float()
        found = NativeAttention(tiles)(queries, k, v, packing, asked)
        assert found.dtype == torch.bfloat16
        assert found.shape == exact.shape
        apart, bound = (found.float() - exact).abs(), (plain - exact).abs()
        assert apart.mean() <= 1.1 * bound.mean()
        assert apart.max() <= max(float(bound.max()), 2**-8 * float(v.float().abs().max()))


@compiled
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_in_float32_attention_is_nearly_as_exact_as_torchs(heads: int, head_dim: int) -> None:
    """Half as exact at the least: how sums are split decides. torch splits those of a lone query into more parts."""
    q, k, v, packing = example(heads, head_dim, dtype=torch.float32)
    bound = (grouped_attention(q, k, v, packing, packing) - exactly(q, k, v, packing, packing)).abs()
    for queries, asked in ((q, packing), (packing.leading_tokens(q, 1), packing.leading(1))):
        exact, found = exactly(queries, k, v, packing, asked), NativeAttention()(queries, k, v, packing, asked)
        assert found.dtype == torch.float32
        assert found.shape == exact.shape
        apart = (found - exact).abs()
        assert apart.mean() <= 2 * bound.mean()
        assert apart.max() <= max(2 * float(bound.max()), 2**-23 * float(v.abs().max()))


def exactly(q: Tensor, k: Tensor, v: Tensor, packing: Packing, asked: Packing) -> Tensor:
    return grouped_attention(q.double(), k.double(), v.double(), packing, asked)


@compiled
@pytest.mark.parametrize("head_dim", [1, 9, 33, 300])
def test_in_float32_heads_are_of_any_size(head_dim: int) -> None:
    q, k, v, packing = example(2, head_dim, dtype=torch.float32)
    exact = exactly(q, k, v, packing, packing)
    assert (NativeAttention()(q, k, v, packing, packing) - exact).abs().max() <= 5e-5


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_image_gets_the_same_numbers_alone_and_on_any_number_of_threads(
    threads: int, way: tuple[torch.dtype, NativeAttention]
) -> None:
    dtype, attend = way
    q, k, v, packing = example(3, 64, dtype=dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert is_the_same_alone(attend, CPU, dtype, heads=3, head_dim=64)
        together = attend(q, k, v, packing, packing)
    finally:
        torch.set_num_threads(before)
    for rows in packing.slices().values():
        alone = Packing.from_lengths([rows.stop - rows.start])
        assert torch.equal(attend(q[rows], k[rows], v[rows], alone, alone), together[rows])


@pytest.mark.parametrize("size", [30.0, 300.0, 3e4, 1e12])
def test_logits_of_any_size_are_weighted_as_by_softmax(size: float, way: tuple[torch.dtype, NativeAttention]) -> None:
    dtype, attend = way
    q, k, v, packing = example(2, 64, dtype=dtype)
    q = (q.float() * size / 20).to(dtype)
    exact = exactly(q, k, v, packing, packing)
    apart = (attend(q, k, v, packing, packing) - exact).abs().max()
    if dtype == torch.float32:  # large logits differ by how their products are rounded
        assert apart <= 2 * (grouped_attention(q, k, v, packing, packing) - exact).abs().max() + 1e-5
    else:
        assert apart <= 2**-7 * v.double().abs().max()


def test_what_is_no_number_stays_so_and_stays_in_its_image(way: tuple[torch.dtype, NativeAttention]) -> None:
    dtype, attend = way
    q, k, v, packing = example(2, 64, dtype=dtype)
    expected = attend(q, k, v, packing, packing)
    slices = list(packing.slices().values())
    for tensor, place in ((q, slices[4].start), (k, slices[-1].start + 100), (v, slices[6].start + 1)):
        tensor[place] = torch.nan
    found = attend(q, k, v, packing, packing)
    assert found[slices[4].start].isnan().all()
    assert torch.equal(found[slices[4].start + 1 : slices[4].stop], expected[slices[4].start + 1 : slices[4].stop])
    assert found[slices[-1]].isnan().all()
    assert found[slices[6]].isnan().all()
    for rows in (*slices[:4], slices[5], *slices[7:-1]):
        assert torch.equal(found[rows], expected[rows])


@attending
def test_attention_refuses_what_it_does_not_compute() -> None:
    q, k, v, packing = example(2, 64, (5, 9))
    run, table = torch.ops.vitrine.attention, packing.table
    beyond = Packing.from_lengths([5, 10]).table
    for arguments in (
        (q.double(), k.double(), v.double(), table, table),
        (q, k.float(), v, table, table),
        (q[..., :31], k[..., :31], v[..., :31], table, table),
        (q, k[:, :1], v, table, table),
        (q, k, v[1:], table, table),
        (q, k, v, beyond, beyond),
        (q, k, v, table, table[:1]),
        (q, k, v, table.float(), table),
        (q, k, v, torch.cat([table, table], 1)[:, :3], table),
        (q[0], k, v, table, table),
        (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), table, table),
    ):
        with pytest.raises(RuntimeError, match=r"expected|differ|dimension"):
            run(*arguments, True)


def memory() -> int:
    """Bytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@attending
def test_memory_that_is_missing_is_an_error_that_the_service_knows() -> None:
    """In a process of its own, whose memory ends below what attention needs for its matrices."""
    code = """
import resource, torch
from app.inference.device.backend import Backend
from models.network.kernels.operators import NativeAttention, library
from models.network.packing import Packing
assert library() is not None
torch.set_num_threads(1)
packing = Packing.from_lengths([400_000])
q, k, v = torch.zeros(400_000, 3, 1, 64, dtype=torch.bfloat16).unbind(1)
asked = packing.leading(1)
NativeAttention()(q[:1], k[:8], v[:8], Packing.from_lengths([8]), Packing.from_lengths([8]).leading(1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, -1))
try:
    NativeAttention()(q[:1], k, v, packing, asked)
except RuntimeError as error:
    print(Backend.is_out_of_memory(error), error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert run.stdout.startswith("True"), run.stdout + run.stderr


def norms(dim: int) -> list[nn.LayerNorm | QuantizedNorm]:
    norm = nn.LayerNorm(dim).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    narrow = nn.LayerNorm(dim, dtype=torch.bfloat16).requires_grad_(False)
    narrow.load_state_dict(norm.state_dict())
    return [QuantizedNorm(norm, Grid8(0.02, 117)), narrow]


def assert_next(found: Tensor, expected: Tensor) -> None:
    """Numbers of 8 bits differ by one, and of bfloat16 by their last place or a last place of float32; few do."""
    assert found.dtype == expected.dtype
    apart = (found.float() - expected.float()).abs()
    assert (apart <= (1 if expected.dtype == torch.uint8 else 2**-7 * expected.float().abs() + 1e-5)).all()
    assert (apart > 0).float().mean() <= 1e-3


@compiled
@pytest.mark.parametrize("dim", [1, 7, 64, 384, 1000])
@pytest.mark.parametrize("rows", [0, 1, 3, 500])
def test_norms_are_torchs(dim: int, rows: int) -> None:
    for plain in norms(dim):
        native = NativeNorm(plain)
        x, branch = (3 * torch.randn(2, rows, dim)).to(native.reads)
        branches = [branch, branch.bfloat16()] if native.reads == torch.float32 else [branch]
        if rows:  # a share of no numbers is none
            assert_next(native(x), plain(x))
        for each in branches:
            expected = x + each
            kept = each.clone()
            total, found = native.of_sum(x, kept)
            assert torch.equal(total, expected)
            assert (total is kept) == (each.dtype == x.dtype)
            if rows:
                assert_next(found, plain(expected))


@compiled
def test_norms_read_rows_that_are_apart_and_keep_what_is_no_number() -> None:
    for plain in norms(64):
        native = NativeNorm(plain)
        x = torch.randn(9, 3, 64).to(native.reads)[:, 1]
        assert_next(native(x), plain(x))
    x = torch.randn(4, 64).bfloat16()
    x[2, 5] = torch.nan
    x[3, 5] = torch.inf
    total, found = native.of_sum(x, torch.zeros_like(x))
    assert found[2:].isnan().all()
    assert found[:2].isfinite().all()
    assert total[2, 5].isnan()
    assert total[3, 5].isinf()


@compiled
def test_norms_refuse_what_they_do_not_compute() -> None:
    rounded, narrow = (NativeNorm(norm) for norm in norms(64))
    with pytest.raises(TypeError, match="float32"):
        rounded(torch.randn(3, 64).bfloat16())
    with pytest.raises(TypeError, match="bfloat16"):
        narrow.of_sum(torch.randn(3, 64), torch.randn(3, 64))
    with pytest.raises(RuntimeError, match="shapes differ"):
        rounded.of_sum(torch.randn(3, 64), torch.randn(2, 64))
    with pytest.raises(RuntimeError, match="shapes differ"):
        rounded(torch.randn(3, 65))
    with pytest.raises(RuntimeError, match="too long"):
        NativeNorm(norms(8193)[0])(torch.randn(3, 8193))
    with pytest.raises(RuntimeError, match="shapes differ"):
        rounded.of_sum(torch.randn(3, 64), torch.randn(0, 64))
    with pytest.raises(RuntimeError, match="expected float32 or bfloat16"):
        torch.ops.vitrine.round8(torch.randn(3, 64).half(), 1.0, 0.0)


@compiled
def test_a_refusal_keeps_no_memory() -> None:
    """Of the tensors of an operator that raises."""
    before = memory()
    for _ in range(50):
        with pytest.raises(RuntimeError, match="expected float32 or bfloat16"):
            torch.ops.vitrine.round8(torch.zeros(1024, 10_000, dtype=torch.float16), 1.0, 0.0)  # 20 MB
    assert memory() - before < 500e6


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_torchs(dtype: torch.dtype) -> None:
    for grid in (Grid8(0.02, 117), Grid8.over(0.0, 1.0), Grid8.over(-3.0, 0.0)):
        x = (4 * torch.randn(300, 100)).to(dtype)
        assert_next(round8(grid, x), grid.quantize(x))
        ends = torch.tensor([[-1e30, -torch.inf, 0.0, torch.inf, 1e30]]).to(dtype)
        assert round8(grid, ends).tolist() == [[0, 0, grid.zero, 255, 255]]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms after": {"norm_post": True, "layer_scale": False},
    "norms everywhere": {"qk_norm": True, "attn_norm": True, "mlp_norm": True},
    "RMSNorm": {"norm_type": "rms", "qk_norm": True},
    "rotary": {"rotary": Rotary(100.0), "position": None},
    "the mean": {"pool": "avg"},
}


@attending
@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_network_answers_as_without_them(variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All images together, alone, and with its blocks in one call, which gives the same numbers."""
    monkeypatch.setattr(selection, "is_faster", lambda *_: True)
    exact, plain, network = tiny(**variant), tiny(**variant).bfloat16(), tiny(**variant).bfloat16()
    fuse = NormFuser(64)
    network.set_attention(NativeAttention())
    network.fuse_norms(fuse)
    assert fuse.fuses == (variant.get("norm_type") != "rms")
    pictures = images((24, 40), (64, 64), (8, 8), (40, 24), (64, 64))
    narrow = [picture.bfloat16() for picture in pictures]
    wanted = Readout.CLS | Readout.MEAN | Readout.LOGITS
    expected, rounded, found = exact(pictures, wanted), plain(narrow, wanted), network(narrow, wanted)
    alone = [network([picture], wanted) for picture in narrow]
    network.recorded = script_of(network, narrow[2])
    recorded = network(narrow, wanted)
    for name in ("cls", "mean", "logits"):
        value = getattr(found, name).float()
        bound = (getattr(rounded, name).float() - getattr(expected, name)).norm()
        assert (value - getattr(expected, name)).norm() <= 2 * bound
        assert_near(torch.cat([getattr(one, name) for one in alone]).float(), value, LEAST_COSINE_TOGETHER)
        assert torch.equal(getattr(recorded, name).float(), value)


@compiled
@torch.inference_mode()
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_network_in_float32_answers_as_without_its_attention(variant: dict[str, Any]) -> None:
    plain, network = tiny(**variant), tiny(**variant)
    network.set_attention(NativeAttention())
    pictures = images((24, 40), (64, 64), (8, 8), (40, 24), (64, 64))
    wanted = Readout.CLS | Readout.MEAN | Readout.LOGITS
    expected, found = plain(pictures, wanted), network(pictures, wanted)
    alone = [network([picture], wanted) for picture in pictures]
    network.recorded = script_of(network, pictures[2])
    recorded = network(pictures, wanted)
    for name in ("cls", "mean", "logits"):
        assert_equal_in_float32(getattr(found, name), getattr(expected, name))
        assert_equal_in_float32(torch.cat([getattr(one, name) for one in alone]), getattr(expected, name))
        assert torch.equal(getattr(recorded, name), getattr(found, name))


@attending
def test_attention_that_is_slower_or_wrong_is_not_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = CPU, torch.bfloat16, 2, 64
    monkeypatch.setattr(selection, "is_faster", lambda *_: True)
    assert select_attention(*shape) == NativeAttention()
    assert select_attention(CPU, torch.bfloat16, heads=2, head_dim=9) != NativeAttention()
    assert select_attention(CPU, torch.float32, heads=2, head_dim=9) == NativeAttention()
    call = NativeAttention.__call__
    with monkeypatch.context() as changed:
        changed.setattr(NativeAttention, "__call__", lambda *given: call(*given) * 1.1)
        assert select_attention(*shape) != NativeAttention()
        changed.setattr(NativeAttention, "__call__", lambda *given: call(*given) * 1.0001)
        assert select_attention(CPU, torch.float32, heads=2, head_dim=9) != NativeAttention()
    monkeypatch.setattr(selection, "is_faster", lambda *_: False)
    assert select_attention(*shape) == ProductAttention(0)


@compiled
def test_norms_and_rounding_that_are_slower_or_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "is_faster", lambda *_: True)
    plain = norms(64)
    assert all(NormFuser(32)(norm) is not None for norm in plain)
    assert select_rounding(32, torch.bfloat16) is round8
    for other in (nn.LayerNorm(64), nn.RMSNorm(64, dtype=torch.bfloat16), nn.Identity()):
        assert NormFuser(32)(other) is None
    assert NormFuser(32)(norms(8193)[0]) is None
    forward = NativeNorm.forward
    with monkeypatch.context() as changed:
        changed.setattr(NativeNorm, "forward", lambda self, x: forward(self, x).float() * 2)
        changed.setattr(selection, "round8", lambda grid, x: round8(grid, x) // 2)
        assert all(NormFuser(32)(norm) is None for norm in plain)
        assert select_rounding(32, torch.bfloat16) is Grid8.quantize
    monkeypatch.setattr(selection, "is_faster", lambda *_: False)
    assert all(NormFuser(32)(norm) is None for norm in plain)
    assert select_rounding(32, torch.bfloat16) is Grid8.quantize


@pytest.mark.parametrize("lacking", ["a compiler", "the same code"])
def test_without_the_library_torchs_own_operations_are_used(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "is_faster", lambda *_: True)
    if lacking == "a compiler":
        monkeypatch.setattr(operators, "find_spec", lambda _: None)
    else:
        monkeypatch.setattr(operators, "INTERFACE", operators.INTERFACE + 1)
    assert operators._load.__wrapped__()[0] is None
    for module in (operators, selection):
        monkeypatch.setattr(module, "library", lambda: None)
    assert not any(operators.attends(dtype) for dtype in (torch.float32, torch.bfloat16))
    assert select_attention(CPU, torch.bfloat16, heads=2, head_dim=64) == ProductAttention(selection.LENGTHS[0])
    assert all(NormFuser(32)(norm) is None for norm in norms(64))
    assert select_rounding(32, torch.bfloat16) is Grid8.quantize
