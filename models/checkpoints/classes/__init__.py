"""The labels of a head's classes: the checkpoint's own, ImageNet-1k's, those of a file, or class indices."""

from pathlib import Path

from models.errors import CheckpointBroken, CheckpointNotFound
from models.files.readable import is_file, refuse_stand_in
from models.layouts.profiles import PUBLIC_HEADS
from models.layouts.source import Reading
from models.network.config import ViTConfig
from models.preprocess import Labels, index_labels

IMAGENET_1K = Path(__file__).parent / "imagenet-1k.txt"
"""The labels in the order of their WordNet ids, as in every published head of 1000 classes."""


def name_classes(reading: Reading, config: ViTConfig, choice: str | None) -> tuple[Labels | None, str]:
    """Return the labels and the reason; None for a network without a classifier.

    Args:
        reading: the checkpoint, for its own labels.
        config: of the network, for the number of classes.
        choice: a file of labels, `imagenet-1k`, `none` for class indices, or None for the checkpoint's own.

    Raises CheckpointBroken if the number of labels is not the number of classes.
    """
    count = config.num_classes
    if not count:
        return None, "the model has no classifier"
    names, reason = _names(reading, count, choice)
    # A softmax over one output is 1 for every picture; transformers' pipeline takes the sigmoid for it.
    multi_label = reading.multi_label or count == 1
    if names is None:
        return Labels(index_labels(count).names, multi_label), reason
    if len(names) != count:
        raise CheckpointBroken(f"there are {len(names)} labels ({reason}), but 'head.weight' has {count} classes")
    return Labels(names, multi_label), reason


def _names(reading: Reading, count: int, choice: str | None) -> tuple[tuple[str, ...] | None, str]:
    if choice == "none":
        return None, "class indices, set by labels"
    if choice == "imagenet-1k":
        return imagenet_1k(), "ImageNet-1k, set by labels"
    if choice is not None:
        return _from_file(Path(choice).expanduser()), f"from {Path(choice).name}, set by labels"
    if reading.names is not None:
        return reading.names, "the checkpoint's config lists them"
    if count == 1000 and reading.imagenet and (reading.layout == "timm" or reading.profile in PUBLIC_HEADS):
        return imagenet_1k(), f"assumed: {reading.profile}'s published heads of 1000 classes are trained on ImageNet-1k"
    return None, "class indices: the checkpoint has no labels; set labels to a file or to imagenet-1k"


def imagenet_1k() -> tuple[str, ...]:
    """Return ImageNet-1k's labels in the order of the head's outputs."""
    return tuple(IMAGENET_1K.read_text(encoding="utf-8").splitlines())


def _from_file(path: Path) -> tuple[str, ...]:
    """Read one label per line, in the order of the head's outputs."""
    if not is_file(path):
        raise CheckpointNotFound(f"{path}: no such file; labels must be a file with one label per line")
    refuse_stand_in(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointNotFound(f"{path}: not readable as a list of labels, one per line ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())
