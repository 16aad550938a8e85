"""The stages of loading: `Source` (files and choices) -> `Reading` (by a layout) -> `Converted` (for the network)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from models.layouts.quantized import Quantization
from models.network.config import Activation, Norm, ViTConfig
from models.network.pooling import Pool
from models.network.positions.rotary import Rotary
from models.network.positions.sincos import SinCos
from models.preprocess import Labels, Preprocess


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Args:
        path: of the file of weights.
        tensors: under the file's names, taken out of the dictionaries around them.
        config, processor, open_clip: the content of config.json, preprocessor_config.json and open_clip_config.json;
            empty if absent.
        wrappers: the keys of the dictionaries around the tensors, outermost first.
        left_out: the other networks in the file, by the key or the prefix of their names.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    open_clip: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choices:
    """The user's settings for a checkpoint; None leaves the choice to the checkpoint."""

    profile: str | None = None
    head: str | None = None  # the path of a file with a linear head
    num_heads: int | None = None
    labels: str | None = None  # a file, `imagenet-1k`, or `none` for class indices


@dataclass(frozen=True)
class Reading:
    """What a layout reads from a checkpoint: the tensors under the network's names, and what their shapes do not show.

    Args:
        layout: the name of the layout.
        profile: the original implementation to reproduce.
        tensors: `blocks.0.attn.qkv.weight` etc.; `cls_token`, `dist_token`, `reg_token`, `pos_embed` and the weights of
            relative biases (`blocks.0.relative.table`, `relative.fc1.weight`) are separate.
        reasons: why each thing was recognised or assumed.
        contradiction: what the file's name says against what is assumed of it; an error unless the profile is set.
        image_size: (height, width) that the position embeddings were trained for; None: unknown, so the grid is square.
        num_heads, act, norm_eps: None if the checkpoint does not say.
        norm_type, norm_post, rotary: as in `ViTConfig`.
        sincos: position embeddings that are computed, not stored.
        pool, pool_layers, pool_norm, projection_tanh: as in `ViTConfig`; `pool` is None if the checkpoint does not say.
        pool_heads, pool_act, pool_prefix: of attention pooling; heads and activation None: those of the blocks.
        expected: sizes that a config states, to check against the tensors: field of ViTConfig -> value.
        preprocess: None if the checkpoint does not say; the profile's default is used then.
        names: the labels of the classes; None if the checkpoint has none.
        multi_label: whether classes do not exclude each other.
        head_kind: whether the outputs of the head are classes; those of a `regression` are not.
        label_offset: the number of leading outputs for the background class (timm).
        imagenet: whether a head of 1000 classes can be assumed to be ImageNet-1k's.
    """

    layout: str
    profile: str
    tensors: Mapping[str, Tensor]
    reasons: Mapping[str, str]
    contradiction: str = ""
    image_size: tuple[int, int] | None = None
    num_heads: int | None = None
    act: Activation | None = None
    norm_eps: float | None = None
    norm_type: Norm = "layer"
    norm_post: bool = False
    sincos: SinCos | None = None
    rotary: Rotary | None = None
    pool: Pool | None = None
    pool_heads: int | None = None
    pool_act: Activation | None = None
    pool_prefix: bool = True
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
    """A checkpoint in the network's own terms.

    Args:
        layout, profile: what was recognised.
        config: of the network.
        weights: under the network's names.
        preprocess: of pictures.
        labels: of the classes; None if the network has no classifier.
        reasons: why each thing was recognised or assumed; shown by `vitrine inspect` and `GET /model`.
        quantization: how it became a network of 8 bits, if it is one.
    """

    layout: str
    profile: str
    config: ViTConfig
    weights: Mapping[str, Tensor]
    preprocess: Preprocess
    labels: Labels | None
    reasons: Mapping[str, str] = field(default_factory=dict)
    quantization: Quantization | None = None
