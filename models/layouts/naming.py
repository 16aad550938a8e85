"""The names of a layout's tensors: a table of patterns, and the one way to read it.

A pattern matches a whole key, so that nothing inside a key is ever replaced. What training code wraps round a key
(`module.`, `backbone.`, ...) is taken off each key by itself, from its start, and only as far as a name of the layout
comes to light: files with mixed prefixes exist.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from models.errors import CheckpointBroken
from models.layouts.tensors import some_names

WRAPPERS = ("_orig_mod.", "module.", "backbone.", "model.", "net.", "student.", "teacher.", "base_model.", "encoder.")
PARTS = r"(weight|bias)"


@dataclass(frozen=True)
class Naming:
    """A layout's names.

    keys: pattern of a key -> the network's name for it.
    ignored: patterns of keys that the network has no use for, and what they are.
    signature: names that together tell this layout from the others.
    wrappers: what may stand before a name, the longer before the shorter.
    """

    keys: Mapping[str, str]
    signature: tuple[str, ...]
    ignored: Mapping[str, str]
    wrappers: tuple[str, ...] = WRAPPERS

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether the keys hold this layout's signature."""
        missing = set(self.signature)
        for key in keys:
            missing.discard(self.name(key) or "")
            if not missing:
                return True
        return False

    def name(self, key: str) -> str | None:
        """The network's name for a key; None for one that is not of this layout."""
        for bare in self._unwrapped(key):
            for pattern, name in self._keys:
                if match := pattern.fullmatch(bare):
                    return match.expand(name)
        return None

    def translate(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """Tensors under the network's names, and a sentence on those that were left out."""
        named: dict[str, Tensor] = {}
        origin: dict[str, str] = {}
        ignored: dict[str, list[str]] = {}
        unexpected: list[str] = []
        for key, tensor in tensors.items():
            if name := self.name(key):
                if name in named:
                    raise CheckpointBroken(f"{origin[name]!r} and {key!r} are the same tensor of the network, {name!r}")
                named[name], origin[name] = tensor, key
            elif what := self._ignored_as(key):
                ignored.setdefault(what, []).append(key)
            else:
                unexpected.append(key)
        if unexpected:
            raise CheckpointBroken(f"unexpected tensors: {some_names(unexpected)}")
        return named, "; ".join(f"{what} ({some_names(keys)})" for what, keys in ignored.items())

    @cached_property
    def _keys(self) -> list[tuple[re.Pattern[str], str]]:
        return [(re.compile(pattern), name) for pattern, name in self.keys.items()]

    def _ignored_as(self, key: str) -> str | None:
        bare = list(self._unwrapped(key))
        return next(
            (what for pattern, what in self.ignored.items() if any(re.fullmatch(pattern, b) for b in bare)), None
        )

    def _unwrapped(self, key: str) -> Iterable[str]:
        """The key, and what is left of it as wrappers are taken off its start one by one."""
        yield key
        while wrapper := next((wrapper for wrapper in self.wrappers if key.startswith(wrapper)), None):
            key = key.removeprefix(wrapper)
            yield key


def join(tensors: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> None:
    """Put projections that a layout keeps apart one below the other, in the order of `parts`, under the name `whole`.

    Where one part has a weight or a bias, all of them must.
    """
    part_of = re.compile(rf"(blocks\.\d+\.)(?:{'|'.join(map(re.escape, parts))})\.(weight|bias)")
    for block, kind in {match.groups() for key in tensors if (match := part_of.fullmatch(key))}:
        names = [f"{block}{part}.{kind}" for part in parts]
        if missing := [name for name in names if name not in tensors]:
            raise CheckpointBroken(f"the tensor for {missing[0]!r} is missing")
        found = [tensors.pop(name) for name in names]
        if len({tensor.shape[1:] for tensor in found}) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
            raise CheckpointBroken(f"{block}{whole}.{kind} is kept in parts that do not fit each other: {shapes}")
        tensors[f"{block}{whole}.{kind}"] = torch.cat(found)
