"""The device that runs the network, and everything that differs between devices.

To add an accelerator, start here: which device and dtype a name means, the size of a batch, how attention is
computed, what its errors mean and how much memory a batch takes; `copies.py` is how pixels reach the device, and
results the CPU. `engine.py` and the rooms above it are independent of it. Further places: the pattern DEVICE in
`app/settings.py`, `select_attention` in `models/network/kernels/selection.py`, and the CPU's threads and allocator in
`runtime.py`.

Where several batches may run side by side, a lone one gets all threads while no image is being decoded. GNU's OpenMP
counts the threads of all teams in the process; while they are more than the cores, none spins at a barrier, and a lone
image takes half as long again. So a lone request always finds the same thread (`Streams.is_next`), which on two cores
is the only one that has a team. On more cores the teams of the others count, too; that is not measured.
"""

import logging
from collections.abc import Callable, Collection
from typing import Literal

import torch
from torch import nn

from app.inference.device.allocator import trim
from app.inference.device.copies import Copies
from app.inference.device.processor import capabilities, computes_int8, fastest_dtype
from models.network.config import ViTConfig
from models.network.kernels.attention import AttentionFunction, ProductAttention, varlen_attention
from models.network.kernels.layers import LinearPacker, QuantizedPacker
from models.network.kernels.linear import PackedLinear, PackedQuantizedLinear
from models.network.kernels.operators import NativeAttention, why_missing
from models.network.kernels.selection import NormFuser, select_attention
from models.network.kernels.tiles import TiledLinear, TiledQuantizedLinear
from models.network.quantized import compute_inside_in, pack_layers
from models.network.vit import VisionTransformer

logger = logging.getLogger("vitrine.device")

Dtype = Literal["float32", "bfloat16", "float16", "int8"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What parameters are converted to. In a network of int8 they are float32, but for the linear layers of its blocks."""

MAX_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768, "mps": 8192}
"""Tokens of one batch: enough to fill the device's matrix units, few enough to keep latency low. Half as many on a CPU
take 9% more processor time an image where two batches run side by side (ViT-S in bfloat16, 32 clients)."""

MOST_STREAMS = 4
"""Batches that run side by side on a CPU by default, at most. More are not measured."""

TYPICAL_ROWS = 512, 1024
"""Tokens that linear layers are tried with on a CPU, at most: of one image, and of a batch. With more of them a start
takes seconds longer."""

TYPICAL_IMAGES = 8
"""Images of that batch."""

MEMORY_SHARE = 0.8
"""Share of the free memory for a batch. The rest is for what a small batch does not show: rounding, fragments, other
processes."""


class DeviceUnavailable(Exception):
    """The machine does not have the device or the dtype that was asked for."""


class Backend:
    """A device and the dtype that the network computes in.

    Args:
        device: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `auto` is bfloat16 where the hardware has it and is faster with it, float16 on older CUDA, else float32.
        streams: how many batches run side by side, from 1; `auto` is one for each thread on a CPU, up to 4, else one;
            on CUDA `try_overlap` may make it two.
        quantized: the checkpoint is of 8 bits; `auto` is then `int8`, and there is no other.
        compiled: the network will be compiled.

    Raises DeviceUnavailable.
    """

    def __init__(
        self,
        device: str = "auto",
        dtype: str = "auto",
        streams: str = "auto",
        *,
        quantized: bool = False,
        compiled: bool = False,
    ) -> None:
        self.device = choose_device(device)
        if quantized and dtype not in ("auto", "int8"):
            detail = f"dtype {dtype!r}: the checkpoint is of 8 bits and is computed in int8"
            raise DeviceUnavailable(f"{detail}; set dtype to auto, or serve the checkpoint that it was made from")
        if dtype == "int8" and not quantized:
            command = "vitrine quantize CHECKPOINT --pictures FOLDER -o DIRECTORY"
            raise DeviceUnavailable(f"dtype 'int8' needs a checkpoint of 8 bits; make one with: {command}")
        self.dtype: Dtype = "int8" if quantized else choose_dtype(dtype, self.device)
        self.torch_dtype = torch.float32 if quantized else DTYPES[self.dtype]
        self.inside: Dtype = choose_inside(self.device) if quantized else self.dtype
        """The dtype of attention, which in a network of int8 is another one than that of the linear layers."""
        self.int8_is_faster = False
        """Whether the layers of a network of int8 take less time than layers of `inside` would."""
        self.records = False
        """Whether blocks may be recorded for images of any sizes: attention reads the bounds of images from memory."""
        self.threads = torch.get_num_threads()
        """Threads of all forward passes on the CPU together."""
        self.streams = choose_streams(streams, self.device, self.threads, compiled=compiled)
        self.more_streams = int(streams == "auto" and self.streams > 1)
        """How many more batches run side by side while other programs use the processor."""
        self.may_overlap = streams == "auto" and self.on_cuda and not (compiled or quantized)
        """Whether a second batch may be prepared while one computes; it has to be tried. Layers of 8 bits read their
        scales back from the GPU, and so wait for the batch before."""
        self.copies = Copies(self.device)
        """How pixels reach the device, and results the CPU."""
        self.max_batch_tokens = MAX_BATCH_TOKENS[self.device.type]

    @property
    def on_cuda(self) -> bool:
        """Whether the device is an NVIDIA GPU."""
        return self.device.type == "cuda"

    @property
    def numbers(self) -> str:
        """The dtypes that decide answers, for the fingerprint."""
        return f"int8, {self.inside}" if self.dtype == "int8" else self.dtype

    def choose_kernels(self, network: VisionTransformer, *, compiled: bool) -> None:
        """Let the network compute attention, linear layers and norms in the fastest way that is right here, by trying.

        Args:
            network: on this device, in this dtype, folded.
            compiled: the network will be compiled, which needs torch's own linear layers.

        Raises DeviceUnavailable for a network of int8 that is to be compiled.
        """
        config = network.config
        attend = select_attention(self.device, DTYPES[self.inside], config.num_heads, config.head_dim)
        network.set_attention(attend)
        self.records = self.device.type == "cpu" and not compiled
        if self.dtype == "int8":
            if compiled:
                raise DeviceUnavailable("compile: a network of int8 is not compiled; leave it out")
            self._choose_for_int8(network, attend)
        elif self.on_cuda:
            self.records = attend is varlen_attention and not compiled
            images = "all images" if attend is varlen_attention else "the images of each length"
            logger.info("attention: one call for %s", images)
        elif self.device.type == "cpu" and self.dtype != "float16":  # packed layers of which are not measured
            rows = _typical_rows(config)
            pack, fuse = LinearPacker(rows), NormFuser(rows[-1])
            if not compiled:
                network.pack(pack)
                network.fuse_norms(fuse)
            _log_kernels(attend, pack.packed, fuse)

    def _choose_for_int8(self, network: VisionTransformer, attend: AttentionFunction) -> None:
        """Compute layers of 8 bits with the processor's own operations for them, and the rest in the dtype `inside`."""
        rows = _typical_rows(network.config)
        pack_inside = LinearPacker(rows)
        if self.inside != "float32":
            compute_inside_in(network, DTYPES[self.inside], pack_inside)
        if self.device.type == "cpu":
            pack = QuantizedPacker(rows, DTYPES[self.inside])
            pack_layers(network, pack)
            fuse = NormFuser(rows[-1])
            network.fuse_norms(fuse)
            _log_kernels(attend, pack.packed | pack_inside.packed, fuse)
            self.int8_is_faster = pack.pays
        if self.int8_is_faster:
            logger.info("int8: the linear layers take less time than in %s", self.inside)
        else:
            where = self.device.type if self.device.type != "cpu" else "this processor"
            lacking = self.device.type == "cpu" and not computes_int8(capabilities())
            why = ", which has neither VNNI nor AMX" if lacking else ""
            logger.warning("int8 is not faster than %s on %s%s", self.inside, where, why)

    def take_share(self, share: float) -> None:
        """Let forward passes of this thread use a share of the CPU's threads, up to 1, and at least one thread."""
        threads = max(1, round(self.threads * share))
        if self.device.type == "cpu" and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of the calling thread alone

    def largest_batch(self, run: Callable[[], object], cost: int) -> int | None:
        """Return the cost of the largest batch that fits into the memory, or None where memory is not measured.

        Args:
            run: runs a small batch.
            cost: the cost of that batch.
        """
        if not self.on_cuda:
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        held = torch.cuda.memory_allocated(self.device)
        run()
        taken = torch.cuda.max_memory_allocated(self.device) - held
        torch.cuda.empty_cache()  # what the run has left with the allocator is free too
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, int(MEMORY_SHARE * free * cost / taken))

    def release_memory(self) -> None:
        """Return the memory that a failed batch has left with the allocator."""
        if self.on_cuda:
            torch.cuda.empty_cache()
        trim()

    @staticmethod
    def is_lost(error: Exception) -> bool:
        """Whether an error of torch means that only a new process can use the device again."""
        return isinstance(error, torch.AcceleratorError) and not Backend.is_out_of_memory(error)

    @staticmethod
    def is_out_of_memory(error: Exception) -> bool:
        """Whether an error of torch means too little memory.

        That of the CPU's allocator, and CUDA's for pinned memory, have no class of their own: the text tells.
        """
        said = any(words in str(error) for words in ("allocate memory", "CUDA error: out of memory"))
        return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def choose_device(name: str) -> torch.device:
    """Return the device of this name. Raises DeviceUnavailable rather than choose another one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(f"device {name!r} does not exist: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailable("device 'mps' does not exist: torch sees no Apple GPU")
    return device


def choose_dtype(name: str, device: torch.device) -> Dtype:
    """Return the dtype of this name; `auto` is the fastest that the hardware computes natively."""
    for dtype in DTYPES:
        if name == dtype:
            return dtype
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if device.type == "cpu":
        return fastest_dtype(capabilities())
    return "float32"


def choose_inside(device: torch.device) -> Dtype:
    """Return the dtype of attention in a network of int8: the fastest that a processor computes natively.

    torch can be told to use fewer instructions than the processor has (ATEN_CPU_CAPABILITY).
    """
    used = device.type == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return fastest_dtype(capabilities()) if used else "float32"


def choose_streams(streams: str, device: torch.device, threads: int, *, compiled: bool) -> int:
    """Return how many batches run side by side. Raises DeviceUnavailable for several where that is not possible."""
    possible = device.type == "cpu" and not compiled
    if streams == "auto":
        return min(MOST_STREAMS, threads) if possible else 1
    if int(streams) > 1 and not possible:
        why = f"{'a compiled network' if compiled else device.type} runs one forward pass at a time"
        if device.type == "cuda" and not compiled:
            why = "whether cuda runs two at once is tried at the start"
        raise DeviceUnavailable(f"streams {streams}: {why}; leave it at auto")
    return int(streams)


LAYERS = {
    PackedLinear: "packed for oneDNN",
    PackedQuantizedLinear: "packed for oneDNN",
    TiledLinear: "compiled operators",
    TiledQuantizedLinear: "compiled operators",
}
"""Types of linear layers, in words."""


def _log_kernels(attend: AttentionFunction, packed: Collection[type[nn.Module]], fuse: NormFuser) -> None:
    """Log how linear layers, attention and norms are computed on this CPU."""
    logger.info("linear layers: %s", " and ".join(sorted({LAYERS[kind] for kind in packed})) or "torch's own")
    attention = "torch's fused operator"
    if isinstance(attend, NativeAttention):
        attention = "compiled operator"
    elif isinstance(attend, ProductAttention) and attend.longest:
        attention = f"written out up to {attend.longest} tokens"
    logger.info("attention: %s; norms: %s", attention, "compiled operators" if fuse.fuses else "torch's own")
    if why := why_missing():
        logger.info("compiled operators: not used; %s", why)


def _typical_rows(config: ViTConfig) -> tuple[int, int]:
    """Return the numbers of tokens that layers are tried with: those of one image and of a batch."""
    tokens = config.num_prefix_tokens + config.grid_size[0] * config.grid_size[1]
    one, batch = TYPICAL_ROWS
    return min(tokens, one), min(TYPICAL_IMAGES * tokens, batch)
