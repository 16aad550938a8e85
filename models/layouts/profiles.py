"""Which original a checkpoint answers like: the numerics in which implementations of the same weights differ.

The same tensors run in several libraries, each with its own activation, LayerNorm epsilon and way to resample
positions. A profile is one of them. It follows the container that the checkpoint came in, and can be chosen by name.
"""

from dataclasses import dataclass

from models.errors import CheckpointUnsupported
from models.network.config import Activation
from models.network.position import Resampling


@dataclass(frozen=True)
class Profile:
    """What an original does with a checkpoint that the checkpoint itself may not say.

    act, norm_eps: where the checkpoint's config names none, and wherever the profile was chosen by name; None is what
        the config says, or else erf GELU and 1e-6.
    """

    resampling: Resampling
    summary: str
    act: Activation | None = None
    norm_eps: float | None = None


OFFSET = Resampling(offset=0.1, skip="pixels")
PLAIN = Resampling()
ANTIALIASED = Resampling(antialias=True)
BILINEAR = Resampling(mode="bilinear")

PROFILES: dict[str, Profile] = {
    "timm": Profile(ANTIALIASED, "bicubic, antialiased"),
    "flexivit": Profile(BILINEAR, "bilinear", "gelu", 1e-6),
    "timm-npz": Profile(BILINEAR, "bilinear, erf GELU: timm's loading of a JAX file", "gelu", 1e-6),
    "transformers": Profile(PLAIN, "bicubic"),
    "transformers-registers": Profile(ANTIALIASED, "bicubic, antialiased"),
    "transformers-4.45": Profile(OFFSET, "bicubic with the offset 0.1, as before release 4.46"),
    "dino": Profile(OFFSET, "bicubic with the offset 0.1", "gelu", 1e-6),
    "dinov2": Profile(OFFSET, "bicubic with the offset 0.1", "gelu", 1e-6),
    "dinov2-reg": Profile(ANTIALIASED, "bicubic, antialiased", "gelu", 1e-6),
    "deit": Profile(PLAIN, "bicubic", "gelu", 1e-6),
    "mae": Profile(PLAIN, "bicubic", "gelu", 1e-6),
    "torchvision": Profile(Resampling(align_corners=True), "bicubic, corners aligned", "gelu", 1e-6),
    "jax": Profile(Resampling("bilinear", align_corners=True), "bilinear, corners aligned", "gelu_tanh", 1e-6),
    "openai-clip": Profile(ANTIALIASED, "bicubic, antialiased", "quick_gelu", 1e-5),
    "open_clip": Profile(ANTIALIASED, "bicubic, antialiased", "gelu", 1e-5),
}
"""The rules of checkpoints' originals. OpenAI's CLIP itself refuses every size but its own; its profile resamples
like open_clip, which runs the same weights."""

PUBLIC_HEADS = frozenset({"dino", "dinov2", "dinov2-reg", "deit", "mae", "torchvision", "jax"})
"""Originals whose published heads of 1000 classes are ImageNet-1k's."""


def profile_named(name: str) -> Profile:
    """The profile of this name, or CheckpointUnsupported that lists what there is."""
    if name not in PROFILES:
        raise CheckpointUnsupported(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]
