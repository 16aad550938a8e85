"""Profiles: the numerics in which implementations of the same weights differ.

The same tensors run in several libraries, which differ in the activation, the epsilon of LayerNorm, the resampling of
position embeddings and relative biases, and the rounding and scaling of rotary positions. A profile names one of these
originals. It follows from the checkpoint's format, and a user can set another one.
"""

from dataclasses import dataclass

from models.errors import CheckpointUnsupported
from models.network.config import Activation
from models.network.positions.learned import Resampling
from models.network.positions.relative import OffsetResampling


@dataclass(frozen=True)
class Profile:
    """The numerics of one original implementation.

    Args:
        resampling: of the position embeddings.
        summary: of the resampling, for people.
        act, norm_eps: used if the checkpoint's config does not say, and always if the user sets the profile. None:
            use the config's, or else erf GELU and 1e-6.
        offsets: the resampling of relative position biases.
        rounded: whether the periods of DINOv3's rotary positions are rounded to bfloat16, if the user sets the profile.
            None: as the checkpoint says.
        unscaled: whether the indices of rotary positions stay as they are at every size, if the user sets the profile;
            otherwise they are as the checkpoint says.
    """

    resampling: Resampling
    summary: str
    act: Activation | None = None
    norm_eps: float | None = None
    offsets: OffsetResampling = "geometric"
    rounded: bool | None = None
    unscaled: bool = False


OFFSET = Resampling(offset=0.1, skip="pixels")
PLAIN = Resampling()
ANTIALIASED = Resampling(antialias=True)
BILINEAR = Resampling(mode="bilinear")

PROFILES: dict[str, Profile] = {
    "timm": Profile(ANTIALIASED, "bicubic, antialiased", rounded=False),
    "flexivit": Profile(BILINEAR, "bilinear", "gelu", 1e-6),
    "timm-par": Profile(Resampling(antialias=True, square=True), "bicubic, antialiased, to a square that is cropped"),
    "timm-parfac": Profile(Resampling("bilinear", square=True), "bilinear, to a square that is cropped"),
    "radio": Profile(Resampling("bilinear", square=True), "bilinear, to a square that is cropped"),
    "radio-aligned": Profile(
        Resampling("bilinear", align_corners=True, square=True),
        "bilinear, corners aligned, to a square that is cropped",
    ),
    "timm-npz": Profile(BILINEAR, "bilinear, erf GELU: timm's loading of a JAX file", "gelu", 1e-6),
    "transformers": Profile(PLAIN, "bicubic", offsets="bilinear", rounded=False),
    "transformers-registers": Profile(ANTIALIASED, "bicubic, antialiased"),
    "siglip2": Profile(Resampling(mode="bilinear", antialias=True), "bilinear, antialiased"),
    "transformers-4.45": Profile(OFFSET, "bicubic with the offset 0.1, as before release 4.46"),
    "dino": Profile(OFFSET, "bicubic with the offset 0.1", "gelu", 1e-6),
    "dinov2": Profile(OFFSET, "bicubic with the offset 0.1", "gelu", 1e-6),
    "dinov2-reg": Profile(ANTIALIASED, "bicubic, antialiased", "gelu", 1e-6),
    "dinov3": Profile(PLAIN, "none; rotary periods rounded to bfloat16", "gelu", 1e-5, rounded=True),
    "eva": Profile(PLAIN, "bicubic", "gelu", 1e-6),
    "pe": Profile(BILINEAR, "bilinear; rotary positions not scaled", "gelu", 1e-5, unscaled=True),
    "deit": Profile(PLAIN, "bicubic", "gelu", 1e-6),
    "mae": Profile(PLAIN, "bicubic", "gelu", 1e-6),
    "torchvision": Profile(Resampling(align_corners=True), "bicubic, corners aligned", "gelu", 1e-6),
    "jax": Profile(Resampling("bilinear", align_corners=True), "bilinear, corners aligned", "gelu_tanh", 1e-6),
    "openai-clip": Profile(ANTIALIASED, "bicubic, antialiased", "quick_gelu", 1e-5),
    "open_clip": Profile(ANTIALIASED, "bicubic, antialiased", "gelu", 1e-5),
}
"""OpenAI's CLIP accepts only its native size; its profile resamples like open_clip, which runs the same weights."""

PUBLIC_HEADS = frozenset({"dino", "dinov2", "dinov2-reg", "deit", "mae", "torchvision", "jax"})
"""Originals whose published heads of 1000 classes are trained on ImageNet-1k."""


def profile_named(name: str) -> Profile:
    """Return the profile of this name. Raises CheckpointUnsupported with the list of profiles."""
    if name not in PROFILES:
        raise CheckpointUnsupported(f"unknown profile {name!r}; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
