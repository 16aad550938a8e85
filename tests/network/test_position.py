"""Resampling of position embeddings, compared with the formula in float64 without torch's interpolation."""

import math

import numpy as np
import pytest
import torch

from models.network.positions import learned as position
from models.network.positions.learned import PositionEmbedding, Resampling, resample

RULES = {
    "timm": Resampling("bicubic", antialias=True),
    "transformers": Resampling("bicubic"),
    "dino": Resampling("bicubic", offset=0.1, skip="pixels"),
    "torchvision": Resampling("bicubic", align_corners=True),
    "jax": Resampling("bilinear", align_corners=True),
    "flexivit": Resampling("bilinear"),
}
GRIDS = [(16, 16), (37, 37), (60, 60), (20, 45), (45, 20), (7, 3), (1, 1)]


def keys_kernel(x: float, a: float) -> float:
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def axis(n: int, m: int, rule: Resampling) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The (m, n) matrix that resamples one axis (Keys 1981, with the conventions of torch's interpolate)."""
    weights = np.zeros((m, n))
    r = (n - 1) / max(m - 1, 1) if rule.align_corners else n / (m + rule.offset)
    for i in range(m):
        if rule.antialias:
            centre, stretch = r * (i + 0.5), max(r, 1.0)
            low, high = max(int(centre - 2 * stretch + 0.5), 0), min(int(centre + 2 * stretch + 0.5), n)
            taps = {j: keys_kernel((j - centre + 0.5) / stretch, -0.5) for j in range(low, high)}
            for j, weight in taps.items():
                weights[i, j] = weight / sum(taps.values())
            continue
        s = r * i if rule.align_corners else r * (i + 0.5) - 0.5
        s = max(s, 0.0) if rule.mode == "bilinear" else s
        first = math.floor(s)
        for j in range(first - 1, first + 3):
            weight = keys_kernel(s - j, -0.75) if rule.mode == "bicubic" else max(0.0, 1 - abs(s - j))
            weights[i, min(max(j, 0), n - 1)] += weight
    return weights


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("native", [(37, 37), (5, 9)], ids=str)
def test_resampling_equals_the_formula(rule: Resampling, native: tuple[int, int], grid: tuple[int, int]) -> None:
    table = torch.randn(*native, 4, generator=torch.Generator().manual_seed(0))
    rows, columns = axis(native[0], grid[0], rule), axis(native[1], grid[1], rule)
    expected = np.einsum("ai,bj,ijd->abd", rows, columns, table.double().numpy())
    # 2e-5: torch computes the coordinates in float32.
    assert np.abs(resample(table, grid, rule).numpy() - expected).max() < 2e-5


def embedding(rule: Resampling, native: tuple[int, int] = (8, 8)) -> PositionEmbedding:
    positions = PositionEmbedding(native, 6, rule)
    positions.table.copy_(torch.randn(positions.table.shape, generator=torch.Generator().manual_seed(3)))
    return positions


CPU = (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_native_grid_is_not_resampled(rule: Resampling) -> None:
    positions = embedding(rule)
    assert torch.equal(positions((8, 8), (64, 64), *CPU), positions.table.flatten(0, 1))


def test_dino_resamples_an_image_that_is_not_square_even_to_the_native_grid() -> None:
    dino = embedding(RULES["dino"])
    assert not torch.allclose(dino((8, 8), (65, 70), *CPU), dino.table.flatten(0, 1), atol=1e-3)
    timm = embedding(RULES["timm"])
    assert torch.equal(timm((8, 8), (65, 70), *CPU), timm.table.flatten(0, 1))


def test_rows_come_before_columns() -> None:
    positions = embedding(RULES["timm"])
    tall = positions((16, 4), (128, 32), *CPU)
    assert torch.allclose(tall, resample(positions.table, (16, 4), positions.rule).flatten(0, 1))


def test_the_table_stays_in_float32_when_the_network_is_converted() -> None:
    positions = embedding(RULES["timm"]).to(torch.bfloat16)
    assert positions.table.dtype is torch.float32
    exact = resample(positions.table, (5, 5), positions.rule).flatten(0, 1)
    assert torch.equal(positions((5, 5), (40, 40), torch.device("cpu"), torch.bfloat16), exact.bfloat16())


def test_each_grid_is_resampled_once_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position, "CACHED_POSITIONS", 100)
    positions = embedding(RULES["timm"])
    assert positions((4, 4), (32, 32), *CPU) is positions((4, 4), (32, 32), *CPU)
    for side in range(2, 12):
        positions((side, side), (8 * side, 8 * side), *CPU)
    assert sum(map(len, positions._cache._values.values())) <= max(100, 11 * 11)
