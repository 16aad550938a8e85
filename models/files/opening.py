"""From a path to a `Source`: which file holds the weights, and how each kind of file is read without running code.

Source of the order of preference: timm's `_hub.py` and transformers' `modeling_utils.py`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import CheckpointBroken, CheckpointNotFound, CheckpointUnsupported
from models.files.pickles import load_pickle
from models.files.readable import is_file, is_there
from models.files.wrappers import unwrap
from models.layouts.source import Source

CONFIGS = ("config.json", "preprocessor_config.json", "open_clip_config.json")

PREFERRED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""Files of weights in a directory, the best first: what cannot run code before what is only kept from running it."""

SINGLE = (".safetensors", ".pth", ".pt", ".bin", ".npz")
"""Endings of which a directory may hold one file under any name."""


def open_source(path: Path) -> Source:
    """Open a directory or a file of weights, with the configs that lie beside it.

    Raises CheckpointNotFound, CheckpointBroken or CheckpointUnsupported, naming the file.
    """
    if not is_there(path):
        raise CheckpointNotFound(f"{path}: there is no such file or directory")
    weights = choose(path, [child.name for child in path.iterdir()]) if path.is_dir() else path
    if not is_file(weights):
        raise CheckpointNotFound(f"{weights}: this is not a file, or a link to one that does not exist")
    tensors, wrappers = read_tensors(weights)
    config, processor, open_clip = (read_json(weights.parent / name) for name in CONFIGS)
    return Source(weights, tensors, config, processor, open_clip, wrappers)


def choose(folder: Path, names: Iterable[str]) -> Path:
    """The file of weights among the names in a folder, which may still be on a hub."""
    found = sorted(names)
    for preferred in PREFERRED:
        if preferred in found:
            return folder / preferred
    for ending in SINGLE:
        single = [name for name in found if name.endswith(ending)]
        if len(single) > 1:
            raise CheckpointUnsupported(f"{folder}: holds {', '.join(single[:4])}; name the one that is meant")
        if single:
            return folder / single[0]
    raise CheckpointNotFound(f"{folder}: there are no weights in it (none of {', '.join(PREFERRED)}, *.pth, *.npz)")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of one file or of all shards of an index, and the dictionaries that they were taken out of."""
    if path.name.endswith(".index.json"):
        return _shards(path), ()
    if path.suffix == ".safetensors":
        return _safetensors(path), ()
    if path.suffix == ".npz":
        return _npz(path), ()
    if path.suffix in (".pth", ".pt", ".bin", ".tar", ".ckpt"):
        return unwrap(load_pickle(path), path)
    raise CheckpointUnsupported(f"{path}: weights are read from {', '.join(SINGLE)} and *.index.json")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no such file."""
    if not is_file(path):
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointBroken(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointBroken(f"{path}: holds {type(content).__name__}, not an object")
    return content


def shard_names(index: Mapping[str, Any], path: Path) -> list[str]:
    """The files that an index names, all of them beside it."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointBroken(f"{path}: has no weight_map")
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if name != Path(name).name]:
        raise CheckpointBroken(f"{path}: names {outside[0]!r}, which is not a file beside it")
    return names


def _shards(path: Path) -> dict[str, Tensor]:
    index = read_json(path)
    tensors: dict[str, Tensor] = {}
    for name in shard_names(index, path):
        if not is_file(path.parent / name):
            raise CheckpointBroken(f"{path}: its shard {name!r} is missing")
        shard, _ = read_tensors(path.parent / name)
        if twice := tensors.keys() & shard.keys():
            raise CheckpointBroken(f"{path}: tensor {min(twice)!r} is in two shards")
        tensors |= shard
    if missing := index["weight_map"].keys() - tensors.keys():
        raise CheckpointBroken(f"{path}: tensor {min(missing)!r} is in none of its shards")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointBroken(f"{path}: not a readable safetensors file ({error})") from error
    return tensors


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files}
    except Exception as error:
        raise CheckpointBroken(f"{path}: not a readable archive of numbers ({error})") from error
