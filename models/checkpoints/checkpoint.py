"""From the name of a checkpoint to a network that runs.

In: a directory, a file of weights, or the name of a repository on the hub, in one of the public layouts.
Out: a `Checkpoint`, and with `build` its `VisionTransformer`.

Loading is strict: a missing, unexpected or misshapen tensor is an error. No code from a checkpoint is ever run.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import torch

from models.checkpoints.assembly import assemble
from models.checkpoints.golden import Golden, read_golden
from models.checkpoints.heads import is_head
from models.errors import CheckpointBroken, CheckpointUnsupported
from models.files.location import Log, locate
from models.files.opening import open_source
from models.layouts import LAYOUTS, unsupported
from models.layouts.profiles import profile_named
from models.layouts.source import Choices, Converted, Reading, Source
from models.layouts.tensors import abbreviate, is_finite, refuse_integers
from models.network.quantized import connect, replace_layers
from models.network.vit import VisionTransformer
from models.quantization import file


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is loaded and checked.

    Args:
        name: of the model, for clients.
        source: as the user gave it.
        digest: of the weights under the network's own names; independent of the file format.
        content: config, weights, preprocessing and labels.
        golden: the answer that the network must give to a known picture; None if the checkpoint has none.
    """

    name: str
    source: str
    digest: str
    content: Converted
    golden: Golden | None = None


def open_checkpoint(  # noqa: PLR0913 - each is a separate setting
    source: str,
    *,
    revision: str | None = None,
    profile: str | None = None,
    head: str | None = None,
    num_heads: int | None = None,
    labels: str | None = None,
    log: Log | None = None,
) -> Checkpoint:
    """Load a checkpoint and check it.

    Args:
        source: a directory or a file; or `hf://owner/name`, or `owner/name` if no such directory exists.
        revision: a branch, a tag or a commit of the repository on the hub.
        profile: the original implementation to reproduce; default: the one that the checkpoint's format suggests.
        head: a file with a linear head, which replaces the checkpoint's own.
        num_heads: the number of attention heads, if the checkpoint does not say it.
        labels: a file with one class name per line, `imagenet-1k`, or `none` for class indices.
        log: receives a sentence for each file that is downloaded.

    Raises:
        CheckpointNotFound: the path or repository does not exist or cannot be read, or the hub cannot be reached.
        CheckpointUnsupported: the format or the architecture is not supported.
        CheckpointBroken: a file is damaged, or a tensor is missing, unexpected or misshapen.
    """
    choices = Choices(profile, head, num_heads, labels)
    if profile is not None:
        profile_named(profile)  # report an unknown name before a download
    location = locate(source, revision, log)
    opened = open_source(location.path)
    content = interpret(opened, choices)
    return Checkpoint(location.name, source, _digest(content, opened), content, read_golden(location.path))


def interpret(source: Source, choices: Choices) -> Converted:
    """Read an opened checkpoint with the first layout that recognises its tensors, and check the result."""
    if file.recognises(source):
        return _read_quantized(source, choices)
    unsupported.refuse(source)
    if is_head(source.tensors):
        raise CheckpointUnsupported(
            f"{source.path}: contains only a linear head; set head to this file and model to its backbone"
        )
    layout = next((layout for layout in LAYOUTS if layout.recognises(source)), None)
    if layout is None:
        raise CheckpointUnsupported(
            f"{source.path}: no supported library names its tensors like this ({abbreviate(source.tensors)})"
        )
    try:
        reading = _read(layout, source)
        refuse_integers(reading.tensors)
        content = assemble(reading, source, choices)
        _check_shapes(content)
    except (CheckpointBroken, CheckpointUnsupported) as error:
        raise type(error)(f"{source.path}: {error}") from error
    return content


def _read_quantized(source: Source, choices: Choices) -> Converted:
    """Read a checkpoint of 8 bits, and check it like any other."""
    try:
        content = file.read(source, choices)
        _check_shapes(content)
    except (CheckpointBroken, CheckpointUnsupported) as error:
        raise type(error)(f"{source.path}: {error}") from error
    return content


def _read(layout: ModuleType, source: Source) -> Reading:
    """Read with a layout. Raises CheckpointBroken for a value of another type than a config of this layout has."""
    try:
        reading: Reading = layout.read(source)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointBroken(
            f"a config beside the weights has a value of an unexpected type ({type(error).__name__}: {error})"
        ) from error
    return reading


def build(checkpoint: Checkpoint) -> VisionTransformer:
    """Return the network with the checkpoint's weights: float32, on the CPU, in evaluation mode."""
    network = _without_weights(checkpoint.content)
    # Some layouts give transposed views. A matrix product may take another path for them and differ in the last bit;
    # a converted checkpoint would then not answer exactly like its source.
    weights = {name: tensor.contiguous() for name, tensor in checkpoint.content.weights.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    network.fold()
    if checkpoint.content.quantization is not None:
        connect(network)
    return network.requires_grad_(False).eval()


def _without_weights(content: Converted) -> VisionTransformer:
    """Return the network on torch's device without memory."""
    with torch.device("meta"):
        network = VisionTransformer(content.config)
        if content.quantization is not None:
            replace_layers(network, content.quantization.layers)
    return network


def _check_shapes(content: Converted) -> None:
    """Raise CheckpointBroken unless every parameter of the network is present, in its shape."""
    expected = _without_weights(content).state_dict()
    if unexpected := content.weights.keys() - expected.keys():
        raise CheckpointBroken(f"unexpected tensors: {abbreviate(unexpected)}")
    for name, parameter in expected.items():
        if name not in content.weights:
            raise CheckpointBroken(f"tensor {name!r} is missing")
        if content.weights[name].shape != parameter.shape:
            found, shape = tuple(content.weights[name].shape), tuple(parameter.shape)
            raise CheckpointBroken(f"tensor {name!r} has shape {found}; expected {shape}")


def _digest(content: Converted, source: Source) -> str:
    """Return a digest of the tensors' digests, which are computed in parallel.

    Hashing takes most of the time of opening a large file. The same pass checks that all values are finite.

    Raises CheckpointBroken with the name of a tensor that has NaN or infinite values.
    """

    def tensor_digest(name: str) -> bytes:
        tensor = content.weights[name].contiguous()
        if not is_finite(tensor):
            raise _not_finite(name, source)
        return hashlib.blake2b(tensor.numpy().data).digest()

    names = sorted(content.weights)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        digests = pool.map(tensor_digest, names)
        parts = [part for name, digest in zip(names, digests, strict=True) for part in (name.encode(), digest)]
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _not_finite(name: str, source: Source) -> CheckpointBroken:
    """Return the error for a tensor of the network, with its name in the file where it can be told."""
    real = {key: tensor.float() for key, tensor in source.tensors.items() if tensor.is_floating_point()}
    found = next((key for key, tensor in real.items() if not is_finite(tensor)), name)
    return CheckpointBroken(
        f"{source.path}: tensor {found!r} has values that are NaN or infinite in float32: the file is damaged, or the "
        "training that wrote it has diverged; use an earlier one"
    )
