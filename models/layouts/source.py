"""A checkpoint as it lies on disk, what a layout reads in it, and what is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from models.network.config import Activation, ViTConfig
from models.network.pooling import Pool
from models.preprocess import Labels, Preprocess


@dataclass(frozen=True)
class Source:
    """A checkpoint that was opened and not yet understood.

    tensors: as the file names them, taken out of the dictionaries that they were wrapped in.
    wrappers: the keys of those dictionaries, outermost first.
    config, processor, open_clip: config.json, preprocessor_config.json and open_clip_config.json, empty where absent.
    """

    path: Path  # of the weights
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    open_clip: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choices:
    """What the user says of a checkpoint that it does not say itself; None leaves it to the checkpoint."""

    profile: str | None = None
    head: str | None = None  # the path of a linear head in a file of its own
    num_heads: int | None = None
    labels: str | None = None  # a file, `imagenet-1k`, or `none` for plain indices


@dataclass(frozen=True)
class Reading:
    """What a layout reads in a checkpoint: the tensors under the network's names, and what their shapes do not show.

    tensors: `blocks.0.attn.qkv.weight` and so on, with `cls_token`, `dist_token`, `reg_token` and `pos_embed` apart.
    image_size: the picture that the position table was made for, (height, width); None: unknown, so its grid is square.
    num_heads, act, norm_eps: None where the checkpoint does not say.
    expected: sizes that a config states, to be held against the tensors: field of ViTConfig -> value.
    preprocess: None where the checkpoint does not say: then the profile's default.
    names: of the classes, None where the checkpoint does not name them.
    head_kind: whether the head's outputs are classes; a `projection` (CLIP) or a `regression` is no classifier.
    imagenet: whether a head of 1000 classes may be taken for ImageNet-1k's.
    """

    layout: str
    profile: str
    tensors: Mapping[str, Tensor]
    reasons: Mapping[str, str]
    image_size: tuple[int, int] | None = None
    num_heads: int | None = None
    act: Activation | None = None
    norm_eps: float | None = None
    pool: Pool | None = None
    pool_layers: int = 1
    pool_norm: bool = True
    projection_tanh: bool = True
    expected: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    names: tuple[str, ...] | None = None
    multi_label: bool = False
    head_kind: Literal["classes", "regression"] = "classes"
    label_offset: int = 0
    imagenet: bool = False


@dataclass(frozen=True)
class Converted:
    """A checkpoint that was understood: the network's config and weights under its own names, and the rest.

    labels: None where the network has no classifier.
    reasons: for each thing that was recognised or assumed, why; shown by `GET /model`.
    """

    layout: str
    profile: str
    config: ViTConfig
    weights: Mapping[str, Tensor]
    preprocess: Preprocess
    labels: Labels | None
    reasons: Mapping[str, str] = field(default_factory=dict)
