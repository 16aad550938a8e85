"""From a path to a `Source`: choose the file of weights and read it, and the configs beside it, without running code.

The order of preference follows timm's `_hub.py` and transformers' `modeling_utils.py`.
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
from models.files.location import PREFERRED
from models.files.pickles import load_pickle
from models.files.readable import exists, is_file, refuse_stand_in
from models.files.wrappers import Content, one_network, unwrap
from models.layouts.source import Source

CONFIGS = ("config.json", "preprocessor_config.json", "open_clip_config.json")

SINGLE = (".safetensors", ".pth", ".pt", ".bin", ".npz")
"""Suffixes of files of weights; a directory may contain one such file under any name."""


def open_source(path: Path) -> Source:
    """Open a directory or a file of weights, and the configs in the same folder.

    Raises CheckpointNotFound, CheckpointBroken or CheckpointUnsupported, with the name of the file.
    """
    if not exists(path):
        raise CheckpointNotFound(f"{path}: no such file or directory")
    weights = choose_weights(path, [child.name for child in path.iterdir()]) if path.is_dir() else path
    if not is_file(weights):
        raise CheckpointNotFound(f"{weights}: not a file")
    content = one_network(read_tensors(weights))
    config, processor, open_clip = (read_json(weights.parent / name) for name in CONFIGS)
    return Source(weights, content.tensors, config, processor, open_clip, content.wrappers, content.left_out)


def choose_weights(folder: Path, names: Iterable[str]) -> Path:
    """Return the file of weights to read from a folder with these names, which may still be on the hub.

    Raises CheckpointNotFound if there is none, CheckpointUnsupported if several are equally preferred.
    """
    found = sorted(names)
    for preferred in PREFERRED:
        if preferred in found:
            return folder / preferred
    for suffix in SINGLE:
        single = [name for name in found if name.endswith(suffix)]
        if len(single) > 1:
            raise CheckpointUnsupported(
                f"{folder}: contains several files of weights ({', '.join(single[:4])}); give the path of one of them"
            )
        if single:
            return folder / single[0]
    suffixes = ", ".join(f"*{suffix}" for suffix in SINGLE)
    raise CheckpointNotFound(f"{folder}: contains no weights; expected {', '.join(PREFERRED)} or one file {suffixes}")


def read_tensors(path: Path) -> Content:
    """Return the tensors of a file or of all shards of an index, and the keys of the dictionaries around them."""
    refuse_stand_in(path)
    if path.name.endswith(".index.json"):
        return Content(_shards(path))
    if path.suffix == ".safetensors":
        return Content(_safetensors(path))
    if path.suffix == ".npz":
        return Content(_npz(path))
    if path.suffix in (".pth", ".pt", ".bin", ".tar", ".ckpt"):
        return unwrap(load_pickle(path), path)
    suffixes = ", ".join(f"*{suffix}" for suffix in SINGLE)
    raise CheckpointUnsupported(f"{path}: unsupported file format; weights are read from {suffixes}, *.index.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one if there is no such file. Raises CheckpointBroken."""
    if not is_file(path):
        return {}
    refuse_stand_in(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointBroken(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointBroken(f"{path}: contains a JSON {type(content).__name__}, not an object")
    return content


def shard_names(index: Mapping[str, Any], path: Path) -> list[str]:
    """Return the names of an index's shards. Raises CheckpointBroken for a shard outside of the index's folder."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointBroken(
            f"{path}: 'weight_map' is missing or empty, so the index lists no shards; download it again"
        )
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if name != Path(name).name]:
        raise CheckpointBroken(f"{path}: lists the shard {outside[0]!r}; shards must be in the folder of the index")
    return names


def _shards(path: Path) -> dict[str, Tensor]:
    index = read_json(path)
    tensors: dict[str, Tensor] = {}
    for name in shard_names(index, path):
        if not is_file(path.parent / name):
            raise CheckpointBroken(f"{path}: the shard {name!r} is missing; download it into the same folder")
        shard = read_tensors(path.parent / name).tensors
        if duplicates := tensors.keys() & shard.keys():
            raise CheckpointBroken(f"{path}: tensor {min(duplicates)!r} is in two shards; download the shards again")
        tensors |= shard
    if missing := index["weight_map"].keys() - tensors.keys():
        raise CheckpointBroken(f"{path}: tensor {min(missing)!r} is in none of the shards; download them again")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointBroken(f"{path}: not a readable safetensors file ({error}); download it again") from error
    return tensors


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files}
    except Exception as error:
        raise CheckpointBroken(
            f"{path}: not a readable .npz archive of numeric arrays: it is damaged, or contains other objects"
        ) from error
