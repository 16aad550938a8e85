"""Map the tensor names of a layout to the network's names, by a table of patterns.

A pattern matches a whole key, so nothing inside a key is replaced by accident. Prefixes that training code adds
(`module.`, `backbone.`, ...) are removed for each key separately, from its start, until the rest matches a pattern:
files with mixed prefixes exist.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from models.errors import CheckpointBroken
from models.layouts.tensors import abbreviate

WRAPPERS = (
    *("_orig_mod.", "module.", "backbone.", "model.", "net.", "student.", "teacher.", "base_model.", "encoder."),
    "timm_model.",  # transformers' TimmWrapper
)
TRAINING = {
    r"(?:dino_loss|ibot_patch_loss|criterion|loss|loss_fn)\..*": "buffers of a training loss",
    r"n_averaged|num_updates|decay|initted|step": "counters of an average of the weights",
}
"""Names that training code adds to any network: of DINOv2, torch's AveragedModel, ema-pytorch and Lightning."""
PARTS = r"(weight|bias)"
SCALE = r"(?:gamma|weight|lambda1|scale)"
"""The parameter of a layer scale; older releases of transformers rename `gamma` to `weight` when they load a file."""


@dataclass(frozen=True)
class Naming:
    """The tensor names of a layout.

    Args:
        keys: pattern of a key -> the network's name.
        signature: names that only this layout has all of.
        ignored: pattern of a key that the network does not need -> what it is, beside `TRAINING`.
        wrappers: prefixes to remove, longer ones first.
    """

    keys: Mapping[str, str]
    signature: tuple[str, ...]
    ignored: Mapping[str, str]
    wrappers: tuple[str, ...] = WRAPPERS

    def recognises(self, keys: Iterable[str]) -> bool:
        """Return whether the keys contain this layout's signature."""
        missing = set(self.signature)
        for key in keys:
            missing.discard(self.name(key) or "")
            if not missing:
                return True
        return False

    def name(self, key: str) -> str | None:
        """Return the network's name for a key, or None for a key that is not of this layout."""
        for bare in self._unwrapped(key):
            for pattern, name in self._keys:
                if match := pattern.fullmatch(bare):
                    return match.expand(name)
        return None

    def translate(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """Return the tensors under the network's names, and a description of those that are left out.

        Raises CheckpointBroken for an unexpected tensor, and if two keys have the same name in the network.
        """
        named: dict[str, Tensor] = {}
        origin: dict[str, str] = {}
        ignored: dict[str, list[str]] = {}
        unexpected: list[str] = []
        for key, tensor in tensors.items():
            if name := self.name(key):
                if name in named:
                    raise CheckpointBroken(f"tensors {origin[name]!r} and {key!r} are both {name!r} of the network")
                named[name], origin[name] = tensor, key
            elif description := self._ignored(key):
                ignored.setdefault(description, []).append(key)
            else:
                unexpected.append(key)
        if unexpected:
            raise CheckpointBroken(f"unexpected tensors: {abbreviate(unexpected)}")
        return named, "; ".join(f"{description} ({abbreviate(keys)})" for description, keys in ignored.items())

    @cached_property
    def _keys(self) -> list[tuple[re.Pattern[str], str]]:
        return [(re.compile(pattern), name) for pattern, name in self.keys.items()]

    def _ignored(self, key: str) -> str | None:
        """Return what an ignored key is, or None for another key."""
        names = list(self._unwrapped(key))
        ignored = {**self.ignored, **TRAINING}
        matches = (what for pattern, what in ignored.items() if any(re.fullmatch(pattern, name) for name in names))
        return next(matches, None)

    def _unwrapped(self, key: str) -> Iterable[str]:
        """Yield the key, and what remains of it after removing each prefix in turn."""
        yield key
        while wrapper := next((wrapper for wrapper in self.wrappers if key.startswith(wrapper)), None):
            key = key.removeprefix(wrapper)
            yield key


def join(tensors: dict[str, Tensor], parts: tuple[str, ...], whole: str, zeros: str = "") -> None:
    """Concatenate projections that a layout stores separately, in the order of `parts`, under the name `whole`.

    Args:
        tensors: under the network's names; changed in place.
        parts: the names of the parts; of a block, unless they start with the name of another module.
        whole: the name of the result.
        zeros: the part whose bias is zeros if the file has none: of the keys, in BEiT and EVA.

    Raises CheckpointBroken if only some of the parts have a weight or a bias, and if their shapes do not match.
    """
    pattern = re.compile(rf"((?:blocks\.\d+\.)?)(?:{'|'.join(map(re.escape, parts))})\.(weight|bias)")
    for block, leaf in {match.groups() for key in tensors if (match := pattern.fullmatch(key))}:
        names = [f"{block}{part}.{leaf}" for part in parts]
        if zeros and leaf == "bias" and (absent := f"{block}{zeros}.bias") not in tensors and names[0] in tensors:
            tensors[absent] = torch.zeros_like(tensors[names[0]])
        if missing := [name for name in names if name not in tensors]:
            raise CheckpointBroken(f"the tensor for {missing[0]!r} is missing")
        found = [tensors.pop(name) for name in names]
        if len({tensor.shape[1:] for tensor in found}) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
            raise CheckpointBroken(f"the parts of {block}{whole}.{leaf} have shapes that do not match: {shapes}")
        tensors[f"{block}{whole}.{leaf}"] = torch.cat(found)
