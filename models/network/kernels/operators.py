"""The operators of native/: attention, a sum, a LayerNorm or rounding to 8 bits in one pass, linear layers, on a CPU.

In: queries, keys and values; tokens, and what is added to them. Out: the same as from torch's own operations, up to
rounding.
Knows nothing of networks.

The library is compiled when Vitrine is installed, where there is a C compiler (pyproject.toml). It registers its
operators with torch's stable C interface, so that TorchScript calls them without Python. What uses them is chosen in
selection.py and layers.py; where they are missing, torch's own operations compute the same.

Source: https://docs.pytorch.org/docs/stable/notes/libtorch_stable_abi.html.
Shapes: t query tokens, T tokens of all images together, D embedding dimension, H heads, d = D / H.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor, nn

from models.network.kernels.quantized import HALF, Grid8, QuantizedNorm
from models.network.packing import Packing

INTERFACE = 3
"""Of the library that this module can use: `INTERFACE` of native/torch.h."""

FUNCTIONS = (
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_dim",
    "aoti_torch_get_size",
    "aoti_torch_get_stride",
    "aoti_torch_get_dtype",
    "aoti_torch_empty_strided",
    "aoti_torch_delete_tensor_object",
    "torch_parallel_for",
    "aoti_torch_check",
    "aoti_torch_dtype_float32",
    "aoti_torch_dtype_bfloat16",
    "aoti_torch_dtype_uint8",
    "aoti_torch_dtype_int64",
    "aoti_torch_device_type_cpu",
)
"""What the library calls, in the order of `Torch` in native/torch.h."""

SCHEMAS = {
    "attention": "(Tensor q, Tensor k, Tensor v, Tensor runs, Tensor query_runs, bool tiles) -> Tensor",
    "norm": "(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor",
    "sum_norm": "(Tensor x, Tensor branch, Tensor(a!) total, Tensor weight, Tensor bias, float eps) -> Tensor",
    "round8": "(Tensor x, float factor, float shift) -> Tensor",
    "linear": "(Tensor x, Tensor packed, Tensor bias, int outputs, int activation) -> Tensor",
    "linear8": (
        "(Tensor x, Tensor packed, Tensor scales, Tensor bias, int outputs, int activation, int bits, float factor,"
        " float shift) -> Tensor"
    ),
}
"""The operators, as torch.ops.vitrine has them."""


_LOADING = Lock()


def library() -> ctypes.CDLL | None:
    """Return the library; the first call registers its operators. None where none fits this machine and code."""
    with _LOADING:
        return _load()[0]


def why_missing() -> str:
    """Return why there is no library, in words; an empty text where there is one."""
    with _LOADING:
        return _load()[1]


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    spec = find_spec("models.network.kernels._native")
    if spec is None or spec.origin is None:
        return None, "there was no C compiler when Vitrine was installed"
    try:
        native = ctypes.CDLL(spec.origin)
        if native.vitrine_interface() != INTERFACE:
            return None, "they are of other code; install Vitrine again"
        _register(native, ctypes.CDLL(_library_of_torch()))
    except (AttributeError, OSError, RuntimeError, StopIteration) as error:
        return None, f"they do not fit this machine or this torch ({error})"
    return native, ""


def _library_of_torch() -> str:
    """Return the path of the library with torch's C interface, which is loaded already."""
    folder = Path(torch.__file__).parent / "lib"
    return str(next(path for name in ("libtorch_cpu.so", "libtorch_cpu.dylib") if (path := folder / name).exists()))


def _register(native: ctypes.CDLL, interface: ctypes.CDLL) -> None:
    addresses = [ctypes.cast(getattr(interface, name), ctypes.c_void_p) for name in FUNCTIONS]
    native.vitrine_connect((ctypes.c_void_p * len(addresses))(*addresses))
    handle = ctypes.c_void_p()
    if interface.aoti_torch_library_init_impl(b"vitrine", b"CPU", b"native", 0, ctypes.byref(handle)):
        raise RuntimeError("torch registers no operators")
    for name, schema in SCHEMAS.items():
        torch.library.define(f"vitrine::{name}", schema)
        run = ctypes.cast(getattr(native, f"vitrine_{name}"), ctypes.c_void_p)
        if interface.aoti_torch_library_impl(handle, name.encode(), run):
            raise RuntimeError(f"torch does not register {name}")


def attends(dtype: torch.dtype) -> bool:
    """Return whether the operator for attention runs here: in bfloat16 on processors with AVX512-BF16 alone."""
    return _level() >= 1 if dtype == torch.bfloat16 else dtype == torch.float32 and library() is not None


def multiplies() -> bool:
    """Return whether the operators for linear layers run here: on processors with AMX."""
    return _level() >= 2


def _level() -> int:
    """Return `vitrine_level`: 0 also where torch was told to use fewer instructions (ATEN_CPU_CAPABILITY)."""
    native = library()
    used = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return int(native.vitrine_level()) if native is not None and used else 0


@dataclass(frozen=True)
class NativeAttention:
    """Attention of float32 or bfloat16 as one operator for images of any lengths, with float32 inside.

    tiles: multiply bfloat16 with AMX where the processor has it; otherwise with AVX512-BF16.
    """

    tiles: bool = True

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_packing: Packing) -> Tensor:
        """Attend inside each image: (t, H, d), (T, H, d) x 2 -> (t, D); RuntimeError for other dtypes."""
        return torch.ops.vitrine.attention(q, k, v, packing.table, query_packing.table, self.tiles)


def round8(grid: Grid8, x: Tensor) -> Tensor:
    """Return what `Grid8.quantize` returns: float32 or bfloat16 (T, D) -> uint8 (T, D)."""
    return torch.ops.vitrine.round8(x, 1 / grid.scale, grid.zero + HALF)


class NativeNorm(nn.Module):
    """A LayerNorm: bfloat16 (T, D) -> bfloat16 (T, D), or, rounded to 8 bits, float32 (T, D) -> uint8 (T, D).

    Args:
        norm: what it computes.
    """

    weight: Tensor  # float32 (D,)
    bias: Tensor  # float32 (D,)

    def __init__(self, norm: nn.LayerNorm | QuantizedNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.reads = torch.float32 if isinstance(norm, QuantizedNorm) else torch.bfloat16
        self.register_buffer("weight", norm.weight.detach().float())
        self.register_buffer("bias", norm.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of each row; TypeError for tokens of another dtype than `reads`."""
        self._check(x)
        return torch.ops.vitrine.norm(x, self.weight, self.bias, self.eps)

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + branch, in the dtype of x, and its norm: (T, D) x 2 -> (T, D) x 2; TypeError as above.

        The sum is in the branch's memory, which is read no more, unless it is of another precision.
        """
        self._check(x)
        total = branch if branch.dtype == x.dtype else torch.empty_like(x, memory_format=torch.contiguous_format)
        return total, torch.ops.vitrine.sum_norm(x, branch, total, self.weight, self.bias, self.eps)

    def _check(self, x: Tensor) -> None:
        if x.dtype != self.reads:  # the operator would compute the other of its two functions
            raise TypeError(f"expected {self.reads}, got {x.dtype}")
