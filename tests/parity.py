"""Every family of checkpoints against its original: `python -m tests.parity` prints the table of `docs/parity.md`."""

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import transformers

from models.checkpoints.checkpoint import build, open_checkpoint
from tests.checkpoints.comparison import BAR, differences, open_network, worst
from tests.checkpoints.families import FAMILIES
from tests.checkpoints.original import SIZES, Family, Original
from tests.checkpoints.pixels import PROCESSORS, pixel_differences, timm_pixel_differences
from tests.checkpoints.timm_family import forward as timm_forward
from tests.checkpoints.wrong import WRONG_EVERYWHERE, WRONG_PROFILES
from tests.originals import timm, torchvision
from tests.server import ROOT

SHIPPED = ROOT / "weights" / "vit-small-tiny-imagenet"


def table_row(family: Family) -> str:
    with tempfile.TemporaryDirectory() as folder:
        original = family.make(Path(folder))
        found = differences(original, open_network(original))
    verdict = "" if worst(found) <= BAR else " **over the bar**"
    return f"| {family.name}{verdict} | {family.against} | {' | '.join(_cell(found.get(size)) for size in SIZES)} |"


def _cell(row: dict[str, float] | None) -> str:
    if row is None:
        return "-"
    parts = [f"{row[what]:.0e}" if row[what] else "0" for what in ("cls", "logits") if what in row]
    return " / ".join(parts) or f"{max(row.values()):.0e}"


def controls() -> Iterator[str]:
    """The same comparison under a wrong profile: what a mistake would look like."""
    for name, (make, profile) in (WRONG_PROFILES | WRONG_EVERYWHERE).items():
        with tempfile.TemporaryDirectory() as folder:
            original = make(Path(folder))
            network = build(open_checkpoint(str(original.path), **{**original.options, "profile": profile}))
            found = differences(original, network)
        elsewhere = [max(row.values()) for size, row in found.items() if size != "native"]
        largest = f"{max(elsewhere):.0e}" if elsewhere else "-"
        yield f"| {name} | `{profile}` | {max(found['native'].values()):.0e} | {largest} |"


def pixel_rows() -> Iterator[str]:
    """Preprocessing against the processors of transformers: their Pillow back end, and their faster one."""
    for name in PROCESSORS:
        for backend in ("pil", "torchvision"):
            with tempfile.TemporaryDirectory() as folder:
                found = pixel_differences(Path(folder), name, backend)
            yield f"| {name} | transformers, {backend} | {max(found):.0e} |"
    with tempfile.TemporaryDirectory() as folder:
        yield f"| center, 0.9 | timm | {max(timm_pixel_differences(Path(folder), 'center', 0.9)):.0e} |"


def default_model() -> Original:
    """The model that ships, at its input size and at others."""
    model = timm.create_model(f"local-dir:{SHIPPED}", pretrained=True, dynamic_img_size=True).float().eval()
    sizes = {"native": (518, 518), "smaller": (70, 70), "larger": (560, 560), "wide": (98, 140), "tall": (140, 98)}
    return Original(SHIPPED, partial(timm_forward, model), sizes=sizes)


def table() -> Iterator[str]:
    """The page, line by line."""
    yield HEADING.format(torch=torch.__version__, timm=timm.__version__, transformers=transformers.__version__,
                         torchvision=torchvision.__version__)  # fmt: skip
    for family in FAMILIES:
        yield table_row(family)
    yield table_row(Family("the model that ships", lambda _: default_model(), "timm"))
    yield PIXELS
    yield from pixel_rows()
    yield CONTROLS
    yield from controls()


HEADING = """# Parity

How far Vitrine's answers lie from the originals'. Made by `make parity`; the same comparisons are tests, with the bar.

Each row is a tiny random network of its family with every parameter random (48 dimensions, 3 or 4 blocks, patch 8,
table of 64 x 64 pixels), saved by the original or under its names, loaded by Vitrine, and asked for random pictures
in float32 on the CPU: native 64 x 64, smaller 40 x 40, larger 104 x 104, wide 48 x 88, tall 88 x 48. Shown is the
largest absolute difference of the [CLS] vector / of the logits, or of the one of them that the original answers,
divided by the largest absolute value of the original's where that is over 1; without either, of what the head
reads. The bar is 1e-5. "-" is a size that the original does not do. "Its formulas" is an implementation written
down from the original's published code, for originals that do not install beside the others. The model that ships
is asked at 518, 70, 560, 98 x 140 and 140 x 98.

torch {torch}, timm {timm}, transformers {transformers}, torchvision {torchvision}.

| family | against | native | smaller | larger | wide | tall |
|---|---|---|---|---|---|---|"""

PIXELS = """
## Pixels

The same JPEGs (480 x 640, 256 x 259, 200 x 90, 77 x 300, 50 x 41) through the original's preprocessing and
Vitrine's, both decoded by Pillow: the largest difference of the normalised pixels.

| preprocessing | against | difference |
|---|---|---|"""

CONTROLS = """
## Negative controls

What the same comparison shows under the profile of another original: each is a mistake that loads without an error.

| mistake | profile | native | the other sizes |
|---|---|---|---|"""

if __name__ == "__main__":
    for line in table():
        sys.stdout.write(line + "\n")
