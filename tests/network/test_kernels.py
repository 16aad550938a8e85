"""The implementations of attention agree, and one that gives wrong results or does not run is not selected."""

from typing import Any

import pytest
import torch
import torch.nn.attention.varlen
from torch import Tensor

from models.network.kernels import grouped_attention, matches_grouped, select_attention, varlen_attention
from models.network.packing import Packing
from models.network.vit import Readout
from tests.bounds import assert_equal_in_float32
from tests.network.test_network import images, tiny

CPU = torch.device("cpu")


def documented_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    **options: Any,
) -> Tensor:
    """`varlen_attn` as torch documents it, in plain arithmetic; the real one runs only on CUDA."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == cu_seq_q.diff().max()
    assert max_k == cu_seq_k.diff().max()
    assert options == {"num_splits": 1}
    found = torch.empty_like(query)
    for (start, end), (first, last) in zip(cu_seq_q.unfold(0, 2, 1), cu_seq_k.unfold(0, 2, 1), strict=True):
        q, k, v = query[start:end], key[first:last], value[first:last]
        weights = (torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5).softmax(-1)
        found[start:end] = torch.einsum("hqk,khd->qhd", weights, v)
    return found


@pytest.fixture
def torch_has_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", documented_varlen_attn)


@pytest.mark.usefixtures("torch_has_varlen")
@pytest.mark.parametrize("readout", [Readout.LOGITS, Readout.CLS | Readout.MEAN])
def test_varlen_attention_equals_grouped_attention(readout: Readout) -> None:
    network, pictures = tiny(), images((24, 40), (64, 64), (8, 8), (40, 24), (64, 64))
    expected = network(pictures, readout)
    network.set_attention(varlen_attention)
    found = network(pictures, readout)
    for name in ("cls", "mean", "logits"):
        if getattr(expected, name) is not None:
            assert_equal_in_float32(getattr(found, name), getattr(expected, name))


@pytest.mark.usefixtures("torch_has_varlen")
def test_a_correct_kernel_matches() -> None:
    assert matches_grouped(varlen_attention, CPU, torch.float32, heads=2, head_dim=8)


def test_a_kernel_that_mixes_images_does_not_match() -> None:
    def mixing(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        one = Packing.from_lengths([len(k)])
        return grouped_attention(q, k, v, one, one if len(q) == len(k) else Packing.from_lengths([len(q)]))

    assert not matches_grouped(mixing, CPU, torch.float32, heads=2, head_dim=8)


def test_a_kernel_that_does_not_run_here_is_not_selected() -> None:
    assert not matches_grouped(varlen_attention, CPU, torch.bfloat16, heads=2, head_dim=8)
    assert select_attention(CPU, torch.bfloat16, heads=2, head_dim=8) is grouped_attention
