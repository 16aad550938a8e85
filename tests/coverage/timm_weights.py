"""The published weights of timm's plain Vision Transformers: each as a small random network, and each at its own size.

Every architecture is built twice. The small one, of two blocks and narrow heads, runs: its answers are compared. The
one of the published size has no memory behind its tensors and does not run: it shows that a config.json without sizes,
as the hub has it, is read like that of the small one, above all the number of heads.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import build, interpret, open_checkpoint
from models.layouts.source import Choices, Source
from models.network.config import ViTConfig
from models.network.vit import VisionTransformer
from tests.checkpoints.comparison import difference, relative
from tests.checkpoints.original import Size, pictures, randomise
from tests.checkpoints.timm_family import forward, resized
from tests.coverage.families import family
from tests.coverage.outcome import Outcome, judge
from tests.originals import timm

MODULES = (
    "vision_transformer",
    "deit",
    "eva",
    "beit",
    "vision_transformer_relpos",
    "vision_transformer_hybrid",
    "naflexvit",
    "vision_transformer_sam",
)
HEAD_DIM, DEPTH = 8, 2
PROJECTIONS = (512, 640, 768, 1024, 1280)
"""Outputs of timm's head that are CLIP's projection, and no classes."""
WIDTHS = {"embed_dim", "depth", "mlp_hidden_dim", "projection_dim", "pool_hidden_dim", "num_classes"}
"""The fields of a config in which a narrow network differs from the published one."""
MANY_PATCHES = 1200


@dataclass(frozen=True)
class Published:
    """The published weights of an architecture that have one input size and one number of outputs."""

    architecture: str
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name that timm makes this network by."""
        return f"{self.architecture}.{self.tags[0]}"


def published() -> list[Published]:
    """Every architecture of the modules that has weights, in the modules' order."""
    found: dict[tuple[str, Any], list[str]] = {}
    for module in MODULES:
        for name in timm.list_models(module=module, pretrained=True, include_tags=True):
            architecture, _, tag = name.partition(".")
            config = timm.get_pretrained_cfg(name)
            found.setdefault((architecture, (config.num_classes, config.input_size)), []).append(tag)
    return [Published(architecture, tuple(tags)) for (architecture, _), tags in found.items()]


def rows(pattern: str) -> Iterator[str]:
    """The names that match, by (number of blocks, number of heads) as in the table of the architectures."""
    found: dict[tuple[int, int], list[str]] = {}
    for name in timm.list_models(pattern):
        with torch.device("meta"):
            model = timm.create_model(name)
        found.setdefault((len(model.blocks), heads_of(model)), []).append(name)
    for sizes, names in sorted(found.items()):
        yield f'{sizes}: "{" ".join(names)}",'


def measure_all(chosen: list[Published]) -> Iterator[Outcome]:
    for weights in chosen:
        yield judge(family(weights.architecture), weights.name, len(weights.tags), partial(measure, weights))


def measure(weights: Published) -> dict[str, float]:
    """Load both networks and return the differences of the small one by readout and size."""
    full = in_full(weights)
    model = small(weights, heads_of(full))
    with tempfile.TemporaryDirectory() as folder:
        timm.models.save_for_hf(model, folder, safe_serialization=True)
        checkpoint = open_checkpoint(folder)
        at_its_size = interpret(_source(full, Path(folder)), Choices())
    if differing := _differing(checkpoint.content.config, at_its_size.config):
        raise AssertionError(f"at its published size {differing}")
    _check_sizes(full, at_its_size.config)
    network = build(checkpoint)
    assert _epsilons(network) == _epsilons(model), f"the epsilons of the norms are {_epsilons(network)}"
    native = tuple(model.pretrained_cfg["input_size"][1:])
    return compare(model, network, "native", native) | compare(
        at(model, weights, other := _other(model, native)), network, "other", other
    )


def in_full(weights: Published) -> Any:
    """The network at its published size, without memory."""
    with torch.device("meta"):
        return timm.create_model(weights.name)


def small(weights: Published, heads: int) -> Any:
    """The network with two narrow blocks and random weights; heads, activations and all else come from its name."""
    arguments = {"embed_dim": heads * HEAD_DIM, "depth": DEPTH}
    if "_sapiens2" in weights.architecture:
        del arguments["depth"]  # it has a number of key heads for each published block
    if "_mci_" in weights.architecture:
        del arguments["embed_dim"]  # its stem has the published width
    model: Any = randomise(timm.create_model(weights.name, **arguments))
    if _projects(model):
        model.head.bias.zero_()  # CLIP's projection has none
    return model


def at(model: Any, weights: Published, size: Size) -> Any:
    """The same network for another input size, as timm changes it."""
    if weights.architecture.startswith("flexivit"):  # its rule is the one of loading
        larger = timm.create_model(weights.name, **model._model_args, img_size=size).eval()
        rule = {"interpolation": "bilinear", "antialias": False}
        state = timm.models.vision_transformer.checkpoint_filter_fn(dict(model.state_dict()), larger, **rule)
        larger.load_state_dict(state)
        return larger
    return resized(model, size) if hasattr(model, "set_input_size") else model


def compare(model: Any, network: VisionTransformer, where: str, size: Size) -> dict[str, float]:
    """Return the differences of one size by readout."""
    patch = network.config.patch_size
    many = (size[0] // patch[0]) * (size[1] // patch[1]) > MANY_PATCHES
    images = pictures(size, count=1 if many else 2)
    with torch.inference_mode():
        expected = forward(model, images)
        ours = network(list(images))
        tokens = model.forward_features(images)
    if _projects(model):
        assert ours.logits is None, "the projection is taken for a head of classes"
        expected["native"] = expected.pop("logits")
    found = {what: difference(value, ours, what) for what, value in expected.items()}
    assert ours.patches is not None
    patches = torch.stack([grid.flatten(0, 1) for grid in ours.patches])
    found["patches"] = relative(tokens[:, model.num_prefix_tokens :], patches)
    return {f"{what} {where}": value for what, value in found.items()}


def _projects(model: Any) -> bool:
    return model.num_classes in PROJECTIONS


def _other(model: Any, native: Size) -> Size:
    """A grid of fewer rows and more columns than the native one."""
    side = _patch(model)
    return max(2, native[0] // side - 3) * side, (native[1] // side + 4) * side


def _patch(model: Any) -> int:
    embed = getattr(model, "patch_embed", None) or model.embeds
    size = embed.patch_size
    return int(size if isinstance(size, int) else size[0])


def heads_of(model: Any) -> int:
    return next(int(module.num_heads) for module in model.modules() if hasattr(module, "num_heads"))


def _source(full: Any, folder: Path) -> Source:
    """A checkpoint of the published size as the hub has it: config.json without arguments, tensors without memory."""
    config = json.loads((folder / "config.json").read_text()) | {"num_features": full.num_features}
    del config["model_args"]
    # Each tensor has its own value: two heads that are equal would be read as one.
    values = {name: float(number) for number, name in enumerate(full.state_dict(), start=1)}
    if _projects(full):
        values["head.bias"] = 0.0
    tensors: dict[str, Tensor] = {
        name: torch.tensor(values[name]).expand(tensor.shape) for name, tensor in full.state_dict().items()
    }
    return Source(folder / "model.safetensors", tensors, config)


def _differing(narrow: ViTConfig, full: ViTConfig) -> str:
    found = [
        f"{field.name} is {getattr(full, field.name)!r}, and of the small network {getattr(narrow, field.name)!r}"
        for field in fields(ViTConfig)
        if field.name not in WIDTHS and getattr(full, field.name) != getattr(narrow, field.name)
    ]
    return "; ".join(found)


def _epsilons(model: nn.Module) -> set[float]:
    """The epsilons of all norms, which are too small to show in the answers of random weights."""
    modules: list[Any] = list(model.modules())
    return {float(module.eps) for module in modules if "Norm" in type(module).__name__ and getattr(module, "eps", None)}


def _check_sizes(full: Any, config: ViTConfig) -> None:
    sizes = (config.num_heads, config.depth, config.embed_dim)
    assert sizes == (heads_of(full), len(full.blocks), full.embed_dim), f"the published sizes are read as {sizes}"
