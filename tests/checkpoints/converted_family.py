"""Families that timm publishes in its own layout, compared with the formulas of the originals.

The weights have the original's names, timm's own function converts them, and timm saves the file that Vitrine loads.
"""

from functools import partial
from pathlib import Path
from typing import Any

from tests.checkpoints.eva_reference import Eva02
from tests.checkpoints.original import SQUARE, Family, Original, Size, randomise
from tests.checkpoints.pe_reference import PerceptionEncoder
from tests.checkpoints.reference import DEPTH, PATCH
from tests.checkpoints.timm_family import TOY, save
from tests.originals import timm

SQUARES: dict[str, Size] = SQUARE | {"half": (32, 32), "twice": (128, 128)}
"""EVA-02's code knows square images only."""


def convert(model: Any, folder: Path, architecture: str, side: int, prefix: str = "", **changed: Any) -> None:
    """Save a network in timm's layout, by the function with which timm converts the original's files."""
    size = (side * PATCH, side * PATCH)
    arguments = {"img_size": size, **TOY, "depth": DEPTH, **changed}
    target: Any = timm.create_model(architecture, **arguments)
    weights = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    target.load_state_dict(timm.models.eva.checkpoint_filter_fn(weights, target))
    save(target, folder, architecture, arguments, size)


def eva02(folder: Path, architecture: str, **options: Any) -> Original:
    model: Any = randomise(Eva02(**options))
    if model.clip:
        model.head.bias.zero_()  # the published projections have biases of zeros
    convert(model, folder, architecture, model.side, num_classes=model.head.out_features)
    return Original(folder, model.read, {"profile": "eva"}, SQUARES)


def pe(folder: Path, architecture: str, side: int, **options: Any) -> Original:
    """At the grid of the published network: timm scales rotary positions to it."""
    model: Any = randomise(PerceptionEncoder(side, **options))
    convert(model, folder, architecture, side, "visual." if model.core else "", num_classes=512 if model.core else 0)
    return Original(folder, model.read, {"profile": "pe"}, sizes(side))


def sizes(side: int) -> dict[str, Size]:
    """The sizes of the table, for a native grid of another side."""
    grids = {
        "native": (side, side),
        "smaller": (5, 5),
        "larger": (side + 5, side + 5),
        "wide": (6, side + 3),
        "tall": (side + 3, 6),
    }
    return {name: (rows * PATCH, columns * PATCH) for name, (rows, columns) in grids.items()}


VARIANTS: dict[str, Any] = {
    "EVA-02": partial(eva02, architecture="eva02_base_patch14_448"),
    "EVA-02, joint projections": partial(eva02, architecture="eva02_tiny_patch14_336", split=False),
    "EVA-02 CLIP": partial(eva02, architecture="eva02_base_patch16_clip_224", clip=True),
    "PE core": partial(pe, architecture="vit_pe_core_base_patch16_224", side=14, core=True),
    "PE core G": partial(
        pe, architecture="vit_pe_core_gigantic_patch14_448", side=32, core=True, cls=False, hidden=280
    ),
    "PE lang": partial(pe, architecture="vit_pe_lang_large_patch14_448", side=32, core=False, scaled=True),
    "PE spatial": partial(pe, architecture="vit_pe_spatial_base_patch16_512", side=32, core=False),
}
FAMILIES = [Family(name, make, "its formulas") for name, make in VARIANTS.items()]
