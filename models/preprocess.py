"""What a checkpoint says of the pixels that it wants and of the classes that it knows. Data and arithmetic, no pixels.

The steps follow the code that each checkpoint was evaluated with: timm's `transforms_imagenet_eval`, torchvision's
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
"""(3, height, width): values from 0 to 255; or, in float32, normalised already, as the network takes them."""

Steps = Literal["crop", "squash", "border", "edge"]
Resize = Literal["crop", "squash", "fit"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Plan:
    """What to do with one picture: scale it to `scaled`, then cut `size` out of it, `offset` pixels from its corner.

    Where the picture is smaller than the cut the rest is filled with `fill`; offsets are then negative, or 0.
    """

    resize: str
    scaled: Size
    offset: Size
    size: Size
    fill: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Preprocess:
    """The checkpoint's own way from a picture to the network's input.

    steps: `crop` scales the picture so that it covers the input divided by `crop_pct` and cuts the centre; `squash`
        scales each side to the input divided by `crop_pct`, the aspect lost, and cuts the centre; `border` scales it so
        that it lies whole within and fills the rest with the mean colour; `edge` scales its shorter side to the input
        divided by `crop_pct` and cuts nothing but what is no whole patch.
    crop_pct: the part of the scaled side that the cut keeps; a Fraction where the original names two whole sizes.
    crop_rounding: how the margin of a cut is halved when it is odd: `even` to the even neighbour (torchvision, timm),
        `floor` towards the top left (transformers).
    mean, std: of each channel, on the scale from 0 to 1.
    """

    input_size: Size
    steps: Steps = "crop"
    crop_pct: float | Fraction = 0.875
    interpolation: Interpolation = "bicubic"
    crop_rounding: Literal["even", "floor"] = "even"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def plan(self, picture: Size, patch: Size, size: Size | None = None, resize: Resize | None = None) -> Plan:
        """Plan for a picture of this size, at the network size and by the steps that are asked for.

        Args:
            picture: height and width of the upright picture.
            patch: height and width of the network's patch; every network size is made of whole patches.
            size: the network size wanted; None is the checkpoint's own.
            resize: the steps wanted; None are the checkpoint's own.
        """
        if size is None and resize is None:
            # As the originals do it: their own size to the pixel, of which the network sees the whole patches.
            return self._own_steps(self.steps, picture, self.input_size, patch)
        target = whole_patches(size or self.input_size, patch)
        if resize == "fit":
            fitted = _fit(picture, target, patch)
            return Plan("fit", scaled=fitted, offset=(0, 0), size=fitted)
        if resize == "squash":
            return Plan("squash", scaled=target, offset=(0, 0), size=target)
        return self._own_steps(resize or self.steps, picture, target, patch)

    def _own_steps(self, steps: Steps, picture: Size, target: Size, patch: Size) -> Plan:
        around = math.floor(target[0] / self.crop_pct), math.floor(target[1] / self.crop_pct)
        fill = (0, 0, 0)
        if steps == "squash":
            scaled = around
        elif steps == "border":
            scaled = _keep_ratio(picture, max(picture[0] / around[0], picture[1] / around[1]))
            red, green, blue = (round(255 * mean) for mean in self.mean)
            fill = (red, green, blue)
        elif steps == "edge":
            scaled = target = _shortest_edge(picture, around[0])
        elif around[0] == around[1]:
            scaled = _shortest_edge(picture, around[0])
        else:
            scaled = _keep_ratio(picture, min(picture[0] / around[0], picture[1] / around[1]))
        offset = self._centre(scaled[0], target[0]), self._centre(scaled[1], target[1])
        seen = target[0] // patch[0] * patch[0], target[1] // patch[1] * patch[1]
        return Plan(steps, scaled, offset, seen, fill)

    def _centre(self, scaled: int, target: int) -> int:
        # All of them floor the margin where they pad.
        if target > scaled or self.crop_rounding == "floor":
            return (scaled - target) // 2 if scaled > target else -((target - scaled) // 2)
        return round((scaled - target) / 2)


@lru_cache(256)
def whole_patches(size: Size, patch: Size) -> Size:
    """Each side at the nearest multiple of the patch, halves up, and at least one patch."""
    height, width = (max(1, (2 * side + p) // (2 * p)) * p for side, p in zip(size, patch, strict=True))
    return height, width


def _fit(picture: Size, box: Size, patch: Size) -> Size:
    """The largest size of the picture's aspect within the box, in whole patches."""
    scale = min(Fraction(box[0], picture[0]), Fraction(box[1], picture[1]))
    height, width = (
        max(1, math.floor(side * scale / p + Fraction(1, 2))) * p for side, p in zip(picture, patch, strict=True)
    )
    return height, width


def _shortest_edge(picture: Size, edge: int) -> Size:
    # torchvision truncates the long side.
    height, width = picture
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _keep_ratio(picture: Size, ratio: float) -> Size:
    # timm rounds both sides; a picture of extreme aspect still keeps a pixel.
    return max(1, round(picture[0] / ratio)), max(1, round(picture[1] / ratio))


@dataclass(frozen=True)
class Labels:
    """The names of the classes, in the order of the head's outputs."""

    names: tuple[str, ...]
    multi_label: bool = False  # each class is a yes or no of its own: sigmoid instead of softmax

    @property
    def activation(self) -> Literal["softmax", "sigmoid"]:
        """What turns logits into probabilities."""
        return "sigmoid" if self.multi_label else "softmax"


def unnamed(num_classes: int) -> Labels:
    """Plain indices, for a head whose classes nobody named: no label is ever invented."""
    return Labels(tuple(str(index) for index in range(num_classes)))
