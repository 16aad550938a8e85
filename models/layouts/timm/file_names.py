"""What the name of a file says of a network, where no config does.

A file without a config is taken for a plain network, because its tensors do not show otherwise: rotary positions and
activations leave no trace in it. Published files often bear the name of their architecture, so a name that contradicts
the assumption is an error and not a detail.
"""

import re
from dataclasses import replace
from pathlib import Path

from models.layouts.timm.architectures import ARCHITECTURES
from models.layouts.timm.family import Architecture, Family
from models.network.config import Activation

GENERIC = re.compile(r"(?:open_clip_)?(?:pytorch_)?(?:model|weights|checkpoint)(?:[_-]best)?(?:\.[\w.]+)?")
"""Names of files that say nothing; the name of their folder does."""

FEATURES = {
    r"(?<![a-z])rope(?![a-z])": "rotary positions",
    r"(?<![a-z])(?:vit_pe_|pe[-_](?:core|lang|spatial)(?![a-z]))": "rotary positions (PE)",
    r"dinov3|eva-?02": "rotary positions",
    r"aimv2": "RMSNorm (AIMv2)",
}
QUICK_GELU = re.compile(r"quick[-_]?gelu")


def contradiction(path: Path, act: Activation | None) -> str:
    """Return the sentence of an error if the name of a file without a config is not that of a plain network, or "".

    Args:
        path: of the file of weights.
        act: the activation that is assumed.
    """
    name = (path.parent.name if GENERIC.fullmatch(path.name) else path.name).lower()
    architecture = _architecture(name)
    if architecture is not None and not _plain(architecture.family):
        return (
            f"{name!r} has the name of timm's architecture {architecture.name!r}, which is not a plain network, and no "
            f'config.json says so; add one with {{"architecture": "{architecture.name}"}} in the same folder'
        )
    features = [feature for pattern, feature in FEATURES.items() if re.search(pattern, name)]
    if QUICK_GELU.search(name) and act != "quick_gelu":
        return (
            f"{name!r} has the name of a network with QuickGELU, and without a config it is taken for one with GELU; "
            "set profile to openai-clip for QuickGELU, or to open_clip for GELU"
        )
    if features:
        return (
            f"{name!r} has the name of a network with {features[0]}, and no config.json says so; add the config.json "
            "of its library, or set profile if it is a plain network"
        )
    return ""


def _architecture(name: str) -> Architecture | None:
    """Return the architecture whose name is part of a file's name; the longest, because names begin alike."""
    return ARCHITECTURES.get(max((known for known in ARCHITECTURES if known in name), key=len, default=""))


def _plain(family: Family) -> bool:
    """Return whether the name of a family shows nothing that a plain network does not have."""
    return replace(family, names={}, projects=False) == Family({})
