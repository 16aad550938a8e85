"""The model classes of transformers: those of each model_type that is served, and the model_types that are refused."""

import dataclasses
import importlib
import inspect
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from models.errors import CheckpointUnsupported
from models.layouts.transformers.classes import CLASSES, check
from tests.checkpoints.comparison import differences, open_network
from tests.checkpoints.original import Original
from tests.checkpoints.transformers_family import VARIANTS
from tests.coverage.outcome import Outcome, judge
from tests.originals import torchvision

assert torchvision  # some models of transformers import it, which works once tests.originals has

MODEL_TYPES: tuple[str, ...] = tuple(CONFIG_MAPPING.keys())


def classes(model_type: str) -> list[str]:
    """The model classes that have this type's config."""
    module = importlib.import_module(CONFIG_MAPPING[model_type].__module__.replace(".configuration_", ".modeling_"))
    found = [
        name
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, transformers.PreTrainedModel)
        and kind.__module__ == module.__name__
    ]
    return [
        name
        for name in found
        if not name.endswith("PreTrainedModel") and getattr(module, name).config_class.model_type == model_type
    ]


def measure_all() -> Iterator[Outcome]:
    """Every class of the served types: right in each of its variants, or refused by name."""
    for model_type in CLASSES:
        for name in classes(model_type):
            yield measure(model_type, name)


def measure(model_type: str, name: str) -> Outcome:
    try:
        check({"model_type": model_type, "architectures": [name]})
    except CheckpointUnsupported as error:
        return Outcome(model_type, name, 1, "refused", str(error))
    return judge(model_type, name, 1, lambda: _differences(name))


def _differences(name: str) -> dict[str, float]:
    variants = {key: make for key, make in VARIANTS.items() if cast(partial[Original], make).args[0] == name}
    found: dict[str, float] = {}
    for key, make in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            original = make(Path(folder))
            sizes = differences(original, open_network(original))
        found |= {f"{key}, {what} {size}": value for size, row in sizes.items() for what, value in row.items()}
    return found


def is_vision(model_type: str) -> bool:
    """Whether a config of this type is of pictures: it has their size, patches, or another config for them."""
    config = CONFIG_MAPPING[model_type]
    fields = {field.name for field in dataclasses.fields(config)}
    return any(name in fields or hasattr(config, name) for name in ("image_size", "patch_size", "vision_config"))
