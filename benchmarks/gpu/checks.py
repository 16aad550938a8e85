"""Whether the answers on the device are right: the CUDA tests, and each family of checkpoints against its original."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from app.inference.device.backend import DTYPES, Dtype
from benchmarks.gpu.page import header, row
from models.checkpoints.checkpoint import build, open_checkpoint
from models.network.kernels.selection import select_attention
from models.network.vit import VisionTransformer
from tests.server import ROOT

BAR = 1e-5
"""Largest allowed difference in float32, relative to the largest value of the original's answer or to 1 if larger."""

HALF: tuple[Dtype, ...] = ("bfloat16", "float16")


def tests() -> None:
    """Run the tests of the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/inference/test_cuda.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print("```\n" + "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:]) + "\n```")
    if done.returncode:
        raise RuntimeError(f"the tests ended with status {done.returncode}")


def parity(device: torch.device, limit_s: float) -> None:
    """Compare every family with its original on the CPU, at the original's sizes.

    float32 by the largest difference; half precision by the least cosine of any vector of the answer.
    """
    from tests.checkpoints.families import FAMILIES  # noqa: PLC0415 - needs timm and transformers

    header("family", "float32, largest difference", *(f"{dtype}, least cosine" for dtype in HALF))
    ends, over = time.monotonic() + limit_s, []
    for number, family in enumerate(FAMILIES):
        if time.monotonic() > ends:
            print(f"\nStopped after {number} of {len(FAMILIES)} families: {limit_s:.0f} s are over.")
            break
        with tempfile.TemporaryDirectory() as folder:
            try:
                original = family.make(Path(folder))
                network = build(open_checkpoint(str(original.path), **original.options)).to(device)
                largest, _ = _compare(network, original, "float32", device)
                cosines = [_compare(network, original, dtype, device)[1] for dtype in HALF]
            except Exception as error:  # noqa: BLE001 - another release of the original's library
                row(family.name, f"not run: {type(error).__name__}: {str(error)[:80]}", *[""] * len(HALF))
                continue
        over += [family.name] if largest > BAR else []
        row(family.name, f"{largest:.0e}", *(f"{cosine:.5f}" for cosine in cosines))
    print(f"\nOver the bar of {BAR:.0e} in float32: {', '.join(over) or 'none'}.")


def _compare(network: VisionTransformer, original: Any, dtype: Dtype, device: torch.device) -> tuple[float, float]:
    """Return the largest relative difference and the least cosine over all sizes and readouts."""
    from tests.checkpoints.original import pictures  # noqa: PLC0415 - with the families

    config = network.config
    network.to(DTYPES[dtype])
    network.set_attention(select_attention(device, DTYPES[dtype], config.num_heads, config.head_dim))
    largest, least = 0.0, 1.0
    for size in original.sizes.values():
        images = pictures(size)
        with torch.inference_mode():
            expected = original.forward(images)
            ours = network(list(images.to(device, DTYPES[dtype])))
        for what, value in expected.items():
            got = getattr(ours, what).float().cpu()
            largest = max(largest, float((got - value).abs().max() / max(1.0, float(value.abs().max()))))
            least = min(least, float(F.cosine_similarity(got, value, dim=-1).min()))
    return largest, least
