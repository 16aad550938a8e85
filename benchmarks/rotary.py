"""What rotary positions cost: the forward pass of a network with them, relative to the same network without."""

import dataclasses
import time
from collections.abc import Callable

import torch

from benchmarks.models import Architecture
from benchmarks.run import Run, header, row
from models.network.config import ViTConfig
from models.network.positions.learned import Resampling
from models.network.positions.rotary import Rotary
from models.network.vit import Readout, VisionTransformer

BATCH = 8
RULES = {
    "DINOv3": Rotary(100.0, "centred", interleaved=False),
    "EVA-02": Rotary(10_000.0, reference=(16, 16)),
    "RoPE-ViT, mixed": Rotary(10.0, axes="xy", learned=True),
}


def rotary(run: Run) -> None:
    """One thread, batches of 8, pictures of 224 pixels: the least processor time of forward passes that take turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    header("model", "dtype", "without, ms", *(f"{name}, relative" for name in RULES))
    for architecture in run.architectures:
        for dtype in (torch.float32, torch.bfloat16):
            first, *others = _least([_forward(architecture, rule, dtype) for rule in (None, *RULES.values())], run)
            name = str(dtype).removeprefix("torch.")
            row(architecture.name, name, 1000 * first, *(f"{other / first:.3f}" for other in others))
    torch.set_num_threads(threads)
    print()


def _forward(architecture: Architecture, rule: Rotary | None, dtype: torch.dtype) -> Callable[[], object]:
    """Return a forward pass of a network with these positions."""
    side = architecture.side // architecture.patch
    config = ViTConfig(
        embed_dim=architecture.dim,
        depth=architecture.depth,
        num_heads=architecture.heads,
        mlp_hidden_dim=4 * architecture.dim,
        patch_size=(architecture.patch, architecture.patch),
        grid_size=(side, side),
        position=Resampling(),
    )
    network = VisionTransformer(dataclasses.replace(config, rotary=rule)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
    network.fold()
    network.to(dtype)
    images = list(torch.randn(BATCH, 3, architecture.side, architecture.side, generator=generator).to(dtype))

    @torch.inference_mode()
    def forward() -> object:
        return network(images, Readout.CLS)

    return forward


def _least(passes: list[Callable[[], object]], run: Run) -> list[float]:
    """Return the least processor time of each pass, in seconds."""
    least = [float("inf")] * len(passes)
    end = time.monotonic() + run.rounds * run.seconds
    while time.monotonic() < end:
        for i, forward in enumerate(passes):
            start = time.process_time()
            forward()
            least[i] = min(least[i], time.process_time() - start)
    return least
