"""Compare every family of checkpoints with its original: `python -m tests.parity` prints `docs/parity.md`."""

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
from tests.checkpoints.pixels import PROCESSORS, ROUNDLESS, pixel_differences, timm_pixel_differences
from tests.checkpoints.timm_family import forward as timm_forward
from tests.checkpoints.wrong import WRONG_EVERYWHERE, WRONG_PROFILES
from tests.originals import timm, torchvision
from tests.server import ROOT

DEFAULT_MODEL = ROOT / "weights" / "vit-small-tiny-imagenet"


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
    """Yield the rows of the same comparison with a wrong profile."""
    for name, (make, profile) in (WRONG_PROFILES | WRONG_EVERYWHERE).items():
        with tempfile.TemporaryDirectory() as folder:
            original = make(Path(folder))
            network = build(open_checkpoint(str(original.path), **{**original.options, "profile": profile}))
            found = differences(original, network)
        other_sizes = [max(row.values()) for size, row in found.items() if size != "native"]
        largest = f"{max(other_sizes):.0e}" if other_sizes else "-"
        yield f"| {name} | `{profile}` | {max(found['native'].values()):.0e} | {largest} |"


def pixel_rows() -> Iterator[str]:
    """Yield the rows of preprocessing: transformers' image processors with both backends, and timm."""
    for name in PROCESSORS:
        for backend in ("pil", "torchvision"):
            with tempfile.TemporaryDirectory() as folder:
                found = pixel_differences(Path(folder), name, backend)
            yield f"| {name} | transformers, {backend} | {max(found):.0e} |"
    for name in ROUNDLESS:
        with tempfile.TemporaryDirectory() as folder:
            found = pixel_differences(Path(folder), name, "torchvision")
        yield f"| {name}, resized without rounding | transformers, torchvision | {max(found):.0e} |"
    with tempfile.TemporaryDirectory() as folder:
        yield f"| center, 0.9 | timm | {max(timm_pixel_differences(Path(folder), 'center', 0.9)):.0e} |"


def default_model() -> Original:
    """The default model, at the native size of its position embeddings and at others."""
    model = timm.create_model(f"local-dir:{DEFAULT_MODEL}", pretrained=True, dynamic_img_size=True).float().eval()
    sizes = {"native": (518, 518), "smaller": (70, 70), "larger": (560, 560), "wide": (98, 140), "tall": (140, 98)}
    return Original(DEFAULT_MODEL, partial(timm_forward, model), sizes=sizes)


def table() -> Iterator[str]:
    """Yield the lines of the page."""
    yield HEADING.format(torch=torch.__version__, timm=timm.__version__, transformers=transformers.__version__,
                         torchvision=torchvision.__version__)  # fmt: skip
    for family in FAMILIES:
        yield table_row(family)
    yield table_row(Family("the default model", lambda _: default_model(), "timm"))
    yield PIXELS
    yield from pixel_rows()
    yield CONTROLS
    yield from controls()


HEADING = """# Parity

The largest differences between Vitrine's answers and those of the original implementations. `make parity` writes this
page; the tests run the same comparisons and require the bar.

Each row is a tiny network of a family with random parameters: 48 dimensions, 3 or 4 blocks, patches of 8 pixels, and
position embeddings for 64 x 64 pixels. The original saves it, or it is saved under the original's names; Vitrine loads
it. Both run on the same random pictures in float32 on the CPU: native 64 x 64, smaller 40 x 40, larger 104 x 104,
wide 48 x 88, tall 88 x 48 (height x width).

A cell is the largest absolute difference of the [CLS] vector / of the logits, divided by the largest absolute value of
the original's answer if that is over 1. If the original returns only one of them, the cell has only that one; if it
returns neither, the cell is the difference of the vector that the head reads. The bar is 1e-5. "-" is a size that the
original does not support. "Its formulas" is a reimplementation from the original's published code, for originals that
cannot be installed next to the others. The default model runs at 518, 70, 560, 98 x 140 and 140 x 98.

Two originals have more than one rule. transformers' Dinov2WithRegisters is compared with release {transformers}, which
resamples position embeddings to the exact grid, antialiased (since its pull request 35411); its first version used a
scale factor. flexivit has two rules in timm: weights loaded for another size are resampled bilinearly without
antialiasing ("flexivit", the default here), and a network that was made with `dynamic_img_size` resamples by timm's
usual rule, bicubic and antialiased ("flexivit, dynamic size"; set `VITRINE_PROFILE=timm`).

timm and BEiT's authors resample tables of relative positions differently: the learned offsets are spaced
geometrically over the new grid in both, but between them timm interpolates linearly, and BEiT's fine-tuning by cubic
splines of SciPy. timm has the splines too, with `TIMM_USE_SCIPY_INTERP=1` and a SciPy before 1.14; Vitrine and this
table follow its default. transformers interpolates the tables bilinearly instead, as the profile `transformers` does.

EVA-02 and Perception Encoder are served from timm's layout and answer like timm by default ("timm, EVA-02", "timm, PE
core" and others). The rows that begin with "EVA-02" and "PE" compare them with the formulas of their authors: the
weights have the original's names, and timm's own function converts them. At the native size timm and the authors agree.
At other sizes they do not, and `VITRINE_PROFILE=eva` and `VITRINE_PROFILE=pe` follow the authors:

- EVA-02 is fine-tuned for a new size with position embeddings that are resampled bicubically without antialiasing; timm
  resamples them antialiased. Both scale rotary positions to the 16 x 16 patches of pre-training. The authors' code has
  only square images. The tests also compare 32 x 32 and 128 x 128 pixels.
- Perception Encoder resamples position embeddings bilinearly without antialiasing and does not scale rotary positions;
  timm resamples bicubically, antialiased, and scales rotary positions to the native grid. The networks have the
  published grids, 14 x 14 patches (core) and 32 x 32 (core G, lang, spatial). Native is 112 x 112 or 256 x 256, smaller
  40 x 40, larger 152 x 152 or 296 x 296, wide 48 x 136 or 48 x 280, tall 136 x 48 or 280 x 48.

torch {torch}, timm {timm}, transformers {transformers}, torchvision {torchvision}.

| family | against | native | smaller | larger | wide | tall |
|---|---|---|---|---|---|---|"""

PIXELS = """
## Pixels

The largest difference of the normalised pixels between the original's preprocessing and Vitrine's, for the same JPEGs
(480 x 640, 256 x 259, 200 x 90, 77 x 300, 50 x 41), decoded by Pillow in both cases.

| preprocessing | against | difference |
|---|---|---|"""

CONTROLS = """
## Negative controls

The same comparison with the profile of another original. Each row is a mistake that loads without an error.

| mistake | profile | native | other sizes |
|---|---|---|---|"""

if __name__ == "__main__":
    for line in table():
        sys.stdout.write(line + "\n")
