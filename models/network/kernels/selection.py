"""Choose the kernels of a network: what runs here, agrees with the plain way, and takes less time.

In: the device, the dtype and the shapes of a network. Out: how to compute attention, norms and rounding; linear layers
are chosen likewise in layers.py.
Knows nothing of weights or images.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from models.network.kernels.attention import AttentionFunction, ProductAttention, grouped_attention, varlen_attention
from models.network.kernels.linear import Quantize
from models.network.kernels.operators import NativeAttention, NativeNorm, attends, library, round8
from models.network.kernels.quantized import Grid8, QuantizedNorm
from models.network.packing import Packing

TEST_LENGTHS = (3, 17, 17, 70)
COMPANY = (3, 70, 197, 1500)
"""Tokens of images that are computed together and alone: the longest may change how the others are computed."""

TOLERANCE, TOLERANCE_FLOAT32 = 2e-2, 1e-5
"""Largest difference of two kernels on values of unit variance: in half precision a few last places of bfloat16, and in
float32."""

LENGTHS = (1024, 512, 256, 128, 64)
"""Tokens of the images with which attention is timed, the longest first: its matrices grow with their square."""

SHORTER = (256, 128, 64)
"""Those that are timed where there is one choice for all lengths."""

REPEATS = 5
"""How often a kernel is timed; its least time counts, because other processes only make it longer."""

ENOUGH, ENOUGH_S = 2, 0.03
"""So many times have to do after so many seconds by default, so that a service starts soon."""


def is_faster(
    kernel: Callable[[], object],
    plain: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    enough_s: float = ENOUGH_S,
) -> bool:
    """Return whether a kernel takes less time than the plain way; the arguments are as below."""
    return relative_time(kernel, plain, wait, enough_s) < 1


def relative_time(
    kernel: Callable[[], object],
    plain: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    enough_s: float = ENOUGH_S,
) -> float:
    """Return the time of a kernel as a share of that of the plain way; they take turns.

    `wait` waits for what they start on the device. After `enough_s` seconds `ENOUGH` times have to do.
    """
    kernel()  # the first time prepares
    plain()
    end = time.perf_counter() + enough_s
    least = [float("inf"), float("inf")]
    for number in range(REPEATS):
        if number >= ENOUGH and time.perf_counter() > end:
            break
        for place, run in enumerate((kernel, plain)):
            wait()
            started = time.perf_counter()
            run()
            wait()
            least[place] = min(least[place], time.perf_counter() - started)
    return least[0] / least[1]


def select_attention(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> AttentionFunction:
    """Return the fastest implementation that gives correct results here.

    Which GPUs, dtypes and head sizes `varlen_attn` supports changes with the release of torch, so it is tried. Which
    one is faster on a processor depends on its instructions, so they are timed.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    supported = half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    shape = device, dtype, heads, head_dim
    if supported and matches_grouped(varlen_attention, *shape) and is_the_same_alone(varlen_attention, *shape):
        return varlen_attention
    if device.type == "cpu":
        plain = _select_of_torch(*shape)
        native = NativeAttention()
        tried = attends(dtype) and matches_grouped(native, *shape)
        faster = tried and is_the_same_alone(native, *shape) and _is_mostly_faster(native, plain, *shape[1:])
        return native if faster else plain
    return grouped_attention


def _select_of_torch(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int) -> AttentionFunction:
    """Return the fastest implementation on a CPU that consists of torch's own operations."""
    longest = longest_by_products(dtype, heads, head_dim) if dtype == torch.bfloat16 else 0
    for products in (ProductAttention(longest), ProductAttention(0)):
        if matches_grouped(products, device, dtype, heads, head_dim):
            return products
    return grouped_attention


def longest_by_products(dtype: torch.dtype, heads: int, head_dim: int) -> int:
    """Return the largest of `LENGTHS` at which products take less time than the fused attention on this CPU, or 0."""
    for length in LENGTHS:
        if _attends_faster(ProductAttention(length), grouped_attention, length, dtype, heads, head_dim):
            return length
    return 0


def _is_mostly_faster(
    attend: AttentionFunction, plain: AttentionFunction, dtype: torch.dtype, heads: int, head_dim: int
) -> bool:
    """Return whether `attend` takes less time than `plain` at most of `SHORTER`."""
    faster = [_attends_faster(attend, plain, length, dtype, heads, head_dim) for length in SHORTER]
    return 2 * sum(faster) > len(faster)


@torch.inference_mode()
def _attends_faster(  # noqa: PLR0913, PLR0917 - what is compared, and the shape
    attend: AttentionFunction, plain: AttentionFunction, length: int, dtype: torch.dtype, heads: int, head_dim: int
) -> bool:
    """Return whether `attend` takes less time than `plain` for two images of so many tokens on this CPU."""
    packing = Packing.from_lengths([length, length])
    q, k, v = torch.randn(3, 2 * length, heads, head_dim).to(dtype)
    found, expected = (partial(each, q, k, v, packing, packing) for each in (attend, plain))
    return is_faster(found, expected)


@torch.inference_mode()
def matches_grouped(
    attend: AttentionFunction, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int
) -> bool:
    """Return whether `attend` runs and agrees with `grouped_attention`: for all queries, and for the first of each."""
    packing = Packing.from_lengths(TEST_LENGTHS)
    q, k, v = torch.randn(3, sum(TEST_LENGTHS), heads, head_dim, device=device).to(dtype)
    tolerance = tolerance_of(dtype)
    for query_packing, queries in ((packing, q), (packing.leading(1), packing.leading_tokens(q, 1))):
        try:
            out = attend(queries, k, v, packing, query_packing)
        except (ImportError, RuntimeError, TypeError):  # this torch, device, dtype or head size has no such kernel
            return False
        expected = grouped_attention(queries, k, v, packing, query_packing)
        if not torch.allclose(out.float(), expected.float(), atol=tolerance):
            return False
    return True


@torch.inference_mode()
def is_the_same_alone(
    attend: AttentionFunction, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int
) -> bool:
    """Return whether an image gets the same numbers alone as beside images of other lengths, to the last bit."""
    try:
        return _is_the_same_alone(attend, device, dtype, heads, head_dim)
    except RuntimeError:  # longer images than those that it was tried with
        return False


def _is_the_same_alone(
    attend: AttentionFunction, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int
) -> bool:
    together = Packing.from_lengths(COMPANY)
    q, k, v = torch.randn(3, sum(COMPANY), heads, head_dim, device=device).to(dtype)
    found = attend(q, k, v, together, together)
    leading = attend(together.leading_tokens(q, 1), k, v, together, together.leading(1))
    for place, rows in enumerate(together.slices().values()):
        alone = Packing.from_lengths([rows.stop - rows.start])
        keys, values, queries = k[rows], v[rows], q[rows]
        first = attend(queries[:1], keys, values, alone, alone.leading(1))
        same = torch.equal(found[rows], attend(queries, keys, values, alone, alone))
        if not (same and torch.equal(leading[place : place + 1], first)):
            return False
    return True


class NormFuser:
    """Finds norms from native/ where those are right and faster; each kind of norm is tried once.

    Args:
        rows: a typical number of tokens.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._worthwhile: dict[tuple[int, torch.dtype], bool] = {}

    @property
    def fuses(self) -> bool:
        """Whether any norm that was tried is replaced."""
        return any(self._worthwhile.values())

    @torch.inference_mode()
    def __call__(self, norm: nn.Module) -> NativeNorm | None:
        """Return a norm that computes the same; None where this one is as good."""
        if not isinstance(norm, nn.LayerNorm | QuantizedNorm) or library() is None:
            return None
        if isinstance(norm, nn.LayerNorm) and norm.weight.dtype != torch.bfloat16:
            return None
        fused = NativeNorm(norm)
        kind = len(fused.weight), fused.reads
        if kind not in self._worthwhile:
            self._worthwhile[kind] = self._is_better(fused, norm)
        return fused if self._worthwhile[kind] else None

    def _is_better(self, fused: NativeNorm, plain: nn.Module) -> bool:
        """Whether the norm of a sum agrees with the plain one, and takes less time."""
        x, branch = torch.randn(2, self._rows, len(fused.weight)).to(fused.reads)
        grid = plain.grid if isinstance(plain, QuantizedNorm) else None
        expected = branch + x
        try:
            total, found = fused.of_sum(x, branch.clone())
            agrees = (
                torch.equal(total, expected) and near(found, plain(expected), grid) and near(fused(x), plain(x), grid)
            )
        except RuntimeError:  # rows that are too long
            return False
        return agrees and is_faster(lambda: fused.of_sum(x, branch), lambda: plain(branch.add_(x)))


@torch.inference_mode()
def select_rounding(rows: int, dtype: torch.dtype) -> Quantize:
    """Return the faster way to round tokens of a dtype to 8 bits."""
    if library() is None:
        return Grid8.quantize
    x, grid = torch.randn(rows, 256).to(dtype), Grid8.over(-3.0, 2.0)
    agrees = near(round8(grid, x), grid.quantize(x), grid)
    return round8 if agrees and is_faster(lambda: round8(grid, x), lambda: grid.quantize(x)) else Grid8.quantize


def tolerance_of(dtype: torch.dtype) -> float:
    """Return by how much two kernels may differ that compute in this dtype."""
    return TOLERANCE_FLOAT32 if dtype == torch.float32 else TOLERANCE


def near(found: Tensor, expected: Tensor, grid: Grid8 | None, tolerance: float = TOLERANCE) -> bool:
    """Return whether results differ by rounding alone: by one of 8 bits, or by the tolerance."""
    difference = (found.float() - expected.float()).abs().max()
    return bool(difference <= (1 if grid else tolerance * max(1.0, float(expected.float().abs().max()))))
