"""What the name of an architecture of timm shows and neither the tensors nor config.json do."""

from dataclasses import dataclass

from models.network.config import Activation, Norm
from models.network.positions.rotary import Rotary


@dataclass(frozen=True)
class Family:
    """What the architectures of a family have in common.

    Args:
        norm_type, norm_eps, norm_post, rotary: as in `ViTConfig`.
        head_dim: d, unless a name or the config says the number of heads.
        pool_heads: the heads of attention pooling; None: as many as attention has.
        pool_act: the activation of attention pooling; None: that of the blocks.
        pool_prefix: whether attention pooling reads prefix tokens where no argument says so: in timm's `eva.py`.
        naflex: whether patches are projected by a linear layer, and all parts before the blocks are in one module.
        profile: the rule for position embeddings.
        projects: whether a head without labels can be CLIP's projection.
    """

    norm_type: Norm = "layer"
    norm_eps: float = 1e-6
    norm_post: bool = False
    rotary: Rotary | None = None
    head_dim: int | None = None
    pool_heads: int | None = None
    pool_act: Activation | None = None
    pool_prefix: bool = True
    naflex: bool = False
    profile: str = "timm"
    projects: bool = False
