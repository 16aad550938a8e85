"""What the name of an architecture of timm shows and neither the tensors nor config.json do."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.network.config import Activation, Norm
from models.network.positions.rotary import Rotary


@dataclass(frozen=True)
class Family:
    """What the architectures of a family have in common. A field is here because only the name shows it.

    Args:
        names: of the architectures, separated by spaces, by (number of blocks, number of attention heads).
        act, norm_type, norm_eps, norm_post, rotary: as in `ViTConfig`.
        profile: the rule for position embeddings.
        pool_heads: the heads of attention pooling; None: as many as attention has.
        pool_prefix: whether attention pooling reads prefix tokens where no argument says so.
        naflex: whether patches are projected by a linear layer, and all parts before the blocks are in one module.
        projects: whether a head without labels can be CLIP's projection.
    """

    names: Mapping[tuple[int, int], str]
    act: Activation = "gelu"
    norm_type: Norm = "layer"
    norm_eps: float = 1e-6
    norm_post: bool = False
    rotary: Rotary | None = None
    profile: str = "timm"
    pool_heads: int | None = None
    pool_prefix: bool = False
    naflex: bool = False
    projects: bool = False


@dataclass(frozen=True)
class Architecture:
    """One architecture: its family, and the sizes that its name stands for unless config.json says others."""

    name: str
    family_name: str
    family: Family
    depth: int
    num_heads: int
