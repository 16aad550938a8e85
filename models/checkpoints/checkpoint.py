"""From the name of a checkpoint to a network that runs: find, open, recognise, convert, build; strict, with reasons.

In: a directory, a file of weights, or the name of a repository on the hub, in one of the public layouts.
Out: a `Checkpoint`, and by `build` its `VisionTransformer`. No code that a checkpoint brings is ever run.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from models.checkpoints.assembly import assemble
from models.checkpoints.golden import Golden, read_golden
from models.checkpoints.heads import is_head
from models.errors import CheckpointBroken, CheckpointUnsupported
from models.files.opening import open_source
from models.files.place import find
from models.layouts import LAYOUTS, unsupported
from models.layouts.profiles import profile_named
from models.layouts.source import Choices, Converted, Source
from models.layouts.tensors import some_names
from models.network.vit import VisionTransformer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and understood.

    digest: of the weights under the network's own names; equal for equal numbers, whatever file they came in.
    golden: what the network should answer, where the checkpoint says so.
    """

    name: str
    source: str
    digest: str
    content: Converted
    golden: Golden | None = None


def open_checkpoint(  # noqa: PLR0913 - each is a setting of its own
    source: str,
    *,
    revision: str | None = None,
    profile: str | None = None,
    head: str | None = None,
    num_heads: int | None = None,
    labels: str | None = None,
    report: Callable[[str], None] | None = None,
) -> Checkpoint:
    """Find a checkpoint, open it and understand it.

    Args:
        source: a directory or a file; or `hf://owner/name`, or `owner/name` where no such directory exists.
        revision: of the repository on the hub: a branch, a tag or a commit.
        profile: the original to answer like, where it is not the one that the container suggests.
        head: a file with a linear head for a checkpoint that has none.
        num_heads: the number of attention heads, where nothing in the checkpoint tells it.
        labels: a file with a name for each class, `imagenet-1k`, or `none` for plain indices.
        report: told in a sentence what is being fetched.

    Raises:
        CheckpointNotFound: there is nothing at that place, or the hub cannot be reached.
        CheckpointUnsupported: no layout recognises it, or it is of a kind that the network cannot run.
        CheckpointBroken: a file is damaged, or a tensor is missing, unexpected or misshapen.
    """
    choices = Choices(profile, head, num_heads, labels)
    if profile is not None:
        profile_named(profile)  # a name that does not exist should not wait for a download
    place = find(source, revision, report)
    content = understand(open_source(place.path), choices)
    return Checkpoint(place.name, source, _digest(content), content, read_golden(place.path))


def understand(source: Source, choices: Choices) -> Converted:
    """What an opened checkpoint is: recognised by the first layout that knows its names, and checked."""
    unsupported.refuse(source.tensors)
    if is_head(source.tensors):
        raise CheckpointUnsupported(
            f"{source.path}: holds a linear head alone; give it as head, and a backbone as model"
        )
    layout = next((layout for layout in LAYOUTS if layout.recognises(source)), None)
    if layout is None:
        raise CheckpointUnsupported(f"{source.path}: no known layout has these tensors ({some_names(source.tensors)})")
    try:
        content = assemble(layout.read(source), source, choices)
        _check_shapes(content)
    except (CheckpointBroken, CheckpointUnsupported) as error:
        raise type(error)(f"{source.path}: {error}") from error
    return content


def build(checkpoint: Checkpoint) -> VisionTransformer:
    """The network with the checkpoint's weights, float32, on the CPU, ready for inference."""
    with torch.device("meta"):
        network = VisionTransformer(checkpoint.content.config)
    network.load_state_dict(dict(checkpoint.content.weights), strict=True, assign=True)
    network.fold()
    return network.requires_grad_(False).eval()


def _check_shapes(content: Converted) -> None:
    """Every parameter of the network is there, in its shape; the layouts have seen to it that nothing is left over."""
    with torch.device("meta"):
        expected = VisionTransformer(content.config).state_dict()
    for name, parameter in expected.items():
        if name not in content.weights:
            raise CheckpointBroken(f"tensor {name!r} is missing")
        if content.weights[name].shape != parameter.shape:
            found, wanted = tuple(content.weights[name].shape), tuple(parameter.shape)
            raise CheckpointBroken(f"tensor {name!r} has shape {found}, the network wants {wanted}")


def _digest(content: Converted) -> str:
    """Of each tensor's digest, so that all cores can take part: it is most of what opening a large file costs."""

    def of(tensor: Tensor) -> bytes:
        return hashlib.blake2b(tensor.contiguous().numpy().data).digest()

    names = sorted(content.weights)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        digests = pool.map(of, (content.weights[name] for name in names))
        parts = [part for name, digest in zip(names, digests, strict=True) for part in (name.encode(), digest)]
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()
