"""What a processor computes natively, as torch detects it, and what it computes fastest.

In: nothing. Out: the dtype to compute in, and whether there are instructions for matrices of 8 bits.
"""

import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F

from models.network.kernels.selection import relative_time

logger = logging.getLogger("vitrine.device")

EARLIER = {
    "avx512_bf16": "_is_avx512_bf16_supported",
    "avx512_vnni": "_is_vnni_supported",
    "amx_bf16": "_is_amx_tile_supported",
    "amx_int8": "_is_amx_tile_supported",
}
"""The functions of `torch.cpu` that tell what a processor has, in releases that have no `get_capabilities`."""

ROWS, WIDTH = 256, 768
"""Of the product that dtypes are compared with: that of a ViT-B for one image."""


def capabilities() -> Mapping[str, Any]:
    """Return what the processor has, by name, such as `avx512_bf16`; a name may be missing."""
    if hasattr(torch.cpu, "get_capabilities"):
        has: Mapping[str, Any] = torch.cpu.get_capabilities()
        return has
    return {name: getattr(torch.cpu, function, bool)() for name, function in EARLIER.items()}


def fastest_dtype(has: Mapping[str, Any]) -> Literal["float32", "bfloat16"]:
    """Return the dtype in which a processor with these capabilities multiplies matrices fastest.

    Instructions for bfloat16 may be slower than float32: AVX512-BF16 on an Intel Xeon whose AMX is hidden, as by Linux
    before 5.16 and by some virtual machines, takes 1.7 times as long. bfloat16 without instructions is not tried.
    """
    computes = has.get("avx512_bf16") or has.get("amx_bf16")
    return "bfloat16" if computes and multiplies_faster_in_bfloat16() else "float32"


@cache
@torch.inference_mode()
def multiplies_faster_in_bfloat16() -> bool:
    """Return whether a product of matrices takes less time in bfloat16 than in float32, in some tens of milliseconds.

    With AMX the ratio is 0.4, on a Xeon whose AMX is hidden 1.7; it differs little between tries.
    """
    x, weight = torch.randn(ROWS, WIDTH), torch.randn(WIDTH, WIDTH)
    half = partial(F.linear, x.bfloat16(), weight.bfloat16())
    ratio = relative_time(half, partial(F.linear, x, weight))
    if ratio >= 1:
        logger.info("bfloat16: this processor multiplies matrices in %.1f times the time of float32", ratio)
    return ratio < 1


def computes_int8(has: Mapping[str, Any]) -> bool:
    """Return whether a processor with these capabilities multiplies matrices of 8 bits."""
    return any(has.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
