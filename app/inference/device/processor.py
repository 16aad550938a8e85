"""What a processor computes natively, as torch detects it.

In: nothing. Out: the dtype to compute in, and whether there are instructions for matrices of 8 bits.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch

EARLIER = {
    "avx512_bf16": "_is_avx512_bf16_supported",
    "avx512_vnni": "_is_vnni_supported",
    "amx_bf16": "_is_amx_tile_supported",
    "amx_int8": "_is_amx_tile_supported",
}
"""The functions of `torch.cpu` that tell what a processor has, in releases that have no `get_capabilities`."""


def capabilities() -> Mapping[str, Any]:
    """Return what the processor has, by name, such as `avx512_bf16`; a name may be missing."""
    if hasattr(torch.cpu, "get_capabilities"):
        has: Mapping[str, Any] = torch.cpu.get_capabilities()
        return has
    return {name: getattr(torch.cpu, function, bool)() for name, function in EARLIER.items()}


def native_dtype(has: Mapping[str, Any]) -> Literal["float32", "bfloat16"]:
    """Return the fastest dtype of a processor with these capabilities: one that it multiplies matrices of."""
    return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"


def computes_int8(has: Mapping[str, Any]) -> bool:
    """Return whether a processor with these capabilities multiplies matrices of 8 bits."""
    return any(has.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
