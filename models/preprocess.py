"""A checkpoint's preprocessing and labels: from the size of a picture to a plan of resizing and cropping it.

In: the size of a picture, the network size and the resize mode. Out: a `Plan`.
Knows nothing of pixels; `app/pictures` carries the plan out.

The steps reproduce the code that each checkpoint was evaluated with: timm's `transforms_imagenet_eval`, torchvision's
`Resize` and `CenterCrop`, the image processors of transformers. Sizes are (height, width) in pixels.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""(3, height, width): uint8 values from 0 to 255, or float32 values that are already normalised."""

Steps = Literal["crop", "squash", "border", "edge", "fit"]
Resize = Literal["crop", "squash", "fit"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

BUDGET_PRECISION = 1e-5
"""Of the scale of a picture that is resized to a budget of patches."""


@dataclass(frozen=True)
class Plan:
    """What to do with one picture: resize it to `scaled`, then crop `size` at `offset` from the top left corner.

    If the resized picture is smaller than the crop, the rest is filled with the colour `fill`, and offsets are <= 0.
    """

    resize: str
    scaled: Size
    offset: Size
    size: Size
    fill: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of a checkpoint: from a picture to the network's input.

    Args:
        input_size: the network size, before it is rounded to whole patches.
        steps: with S = `input_size` / `crop_pct`:
            `crop`: resize to cover S, keeping the aspect ratio, and crop the centre;
            `squash`: resize to S without keeping the aspect ratio, and crop the centre;
            `border`: resize to fit into S, keeping the aspect ratio, and fill the rest with the mean colour;
            `edge`: resize the shorter side to S, keeping the aspect ratio, and crop only to whole patches;
            `fit`: resize to fit into S, keeping the aspect ratio, to whole patches.
        crop_pct: the share of the resized side that the crop keeps; a Fraction if the original gives two whole sizes.
        interpolation: the filter of the resize.
        crop_rounding: how half an odd margin is rounded: `even`, to the nearest even number (torchvision, timm), or
            `floor`, towards the top left (transformers).
        mean, std: of each channel, on the scale from 0 to 1.
        max_patches: a budget of patches instead of `input_size`, for pictures of any shape (NaFlex), or None.
    """

    input_size: Size
    steps: Steps = "crop"
    crop_pct: float | Fraction = 0.875
    interpolation: Interpolation = "bicubic"
    crop_rounding: Literal["even", "floor"] = "even"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    max_patches: int | None = None

    def plan(
        self,
        picture: Size,
        patch: Size,
        size: Size | None = None,
        resize: Resize | None = None,
        max_patches: int | None = None,
    ) -> Plan:
        """Return the plan for a picture of this size.

        Args:
            picture: height and width of the picture, after applying its EXIF orientation.
            patch: height and width of the network's patch; every network size is rounded to whole patches.
            size: the network size; None is the checkpoint's own.
            resize: the resize mode; None is the checkpoint's own.
            max_patches: a budget of patches, instead of a size and a resize mode.
        """
        if (budget := self.budget(size, resize, max_patches)) is not None:
            fitted = within_budget(picture, patch, budget)
            return Plan("fit", scaled=fitted, offset=(0, 0), size=fitted)
        if size is None and resize is None:
            # Like the originals: crop to the exact input size; the network ignores what is not a whole patch.
            return self._own_steps(self.steps, picture, self.input_size, patch)
        target = whole_patches(size or self.input_size, patch)
        if (resize or self.steps) == "fit":
            fitted = _fit(picture, target, patch)
            return Plan("fit", scaled=fitted, offset=(0, 0), size=fitted)
        if resize == "squash":
            return Plan("squash", scaled=target, offset=(0, 0), size=target)
        return self._own_steps(resize or self.steps, picture, target, patch)

    def budget(self, size: Size | None, resize: Resize | None, max_patches: int | None) -> int | None:
        """Return the budget of patches of a request, which may be the checkpoint's own, or None if it has none."""
        return max_patches or (self.max_patches if size is None and resize is None else None)

    def _own_steps(self, steps: Steps, picture: Size, target: Size, patch: Size) -> Plan:
        resized = math.floor(target[0] / self.crop_pct), math.floor(target[1] / self.crop_pct)
        fill = (0, 0, 0)
        if steps == "squash":
            scaled = resized
        elif steps == "border":
            scaled = _keep_ratio(picture, max(picture[0] / resized[0], picture[1] / resized[1]))
            red, green, blue = (round(255 * mean) for mean in self.mean)
            fill = (red, green, blue)
        elif steps == "edge":
            scaled = target = _shortest_edge(picture, resized[0])
        elif resized[0] == resized[1]:
            scaled = _shortest_edge(picture, resized[0])
        else:
            scaled = _keep_ratio(picture, min(picture[0] / resized[0], picture[1] / resized[1]))
        offset = self._centre(scaled[0], target[0]), self._centre(scaled[1], target[1])
        size = target[0] // patch[0] * patch[0], target[1] // patch[1] * patch[1]
        return Plan(steps, scaled, offset, size, fill)

    def _centre(self, scaled: int, target: int) -> int:
        """Return the offset of a centre crop. When padding, all originals round half of an odd margin down."""
        if target > scaled or self.crop_rounding == "floor":
            return (scaled - target) // 2 if scaled > target else -((target - scaled) // 2)
        return round((scaled - target) / 2)


@lru_cache(256)
def whole_patches(size: Size, patch: Size) -> Size:
    """Round each side to the nearest multiple of the patch, halves up, and to at least one patch."""
    height, width = (max(1, (2 * side + p) // (2 * p)) * p for side, p in zip(size, patch, strict=True))
    return height, width


def _fit(picture: Size, box: Size, patch: Size) -> Size:
    """Return the largest size in the box with the picture's aspect ratio, rounded to whole patches."""
    scale = min(Fraction(box[0], picture[0]), Fraction(box[1], picture[1]))
    height, width = (
        max(1, math.floor(side * scale / p + Fraction(1, 2))) * p for side, p in zip(picture, patch, strict=True)
    )
    return height, width


def within_budget(picture: Size, patch: Size, max_patches: int) -> Size:
    """Return the largest size of at most `max_patches` patches with the picture's shape, in whole patches.

    Each side is rounded up, so the shape is kept to within a patch.

    Source: `get_image_size_for_max_num_patches` of transformers' SigLIP 2, whose bounds, at most 100 times the picture,
    and precision of the scale are part of its answers.
    """

    def scaled(scale: float) -> Size:
        height, width = (max(1, math.ceil(side * scale / p)) * p for side, p in zip(picture, patch, strict=True))
        return height, width

    low, high = BUDGET_PRECISION / 10, 100.0
    while high - low >= BUDGET_PRECISION:
        middle = (low + high) / 2
        height, width = scaled(middle)
        if (height // patch[0]) * (width // patch[1]) <= max_patches:
            low = middle
        else:
            high = middle
    return scaled(low)


def _shortest_edge(picture: Size, edge: int) -> Size:
    # torchvision truncates the long side.
    height, width = picture
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _keep_ratio(picture: Size, ratio: float) -> Size:
    # timm rounds both sides; max() keeps one pixel of a picture with an extreme aspect ratio.
    return max(1, round(picture[0] / ratio)), max(1, round(picture[1] / ratio))


@dataclass(frozen=True)
class Labels:
    """The labels of the classes, in the order of the head's outputs."""

    names: tuple[str, ...]
    multi_label: bool = False  # classes do not exclude each other: sigmoid instead of softmax

    @property
    def activation(self) -> Literal["softmax", "sigmoid"]:
        """The function from logits to probabilities."""
        return "sigmoid" if self.multi_label else "softmax"


def index_labels(num_classes: int) -> Labels:
    """Return class indices as labels, for a head without labels; labels are never invented."""
    return Labels(tuple(str(index) for index in range(num_classes)))
