"""What the classes of a head are called: the checkpoint's own names, ImageNet-1k's, a file's, or their indices."""

from pathlib import Path

from models.errors import CheckpointBroken, CheckpointNotFound
from models.files.readable import forbidden
from models.layouts.profiles import PUBLIC_HEADS
from models.layouts.source import Reading
from models.network.config import ViTConfig
from models.preprocess import Labels, unnamed

IMAGENET_1K = Path(__file__).parent / "imagenet-1k.txt"
"""The names in the order of their WordNet ids, which is that of every published head of 1000 classes."""


def name_classes(reading: Reading, config: ViTConfig, wanted: str | None) -> tuple[Labels | None, str]:
    """The labels, and why these; None for a network without a classifier.

    Raises CheckpointBroken where there are more or fewer names than classes.
    """
    count = config.num_classes
    if not count:
        return None, "there is no classifier"
    names, why = _names(reading, count, wanted)
    if names is None:
        return Labels(unnamed(count).names, reading.multi_label), why
    if len(names) != count:
        raise CheckpointBroken(f"there are {len(names)} labels ({why}), 'head.weight' has {count} classes")
    return Labels(names, reading.multi_label), why


def _names(reading: Reading, count: int, wanted: str | None) -> tuple[tuple[str, ...] | None, str]:
    if wanted == "none":
        return None, "plain indices were chosen"
    if wanted == "imagenet-1k":
        return imagenet_1k(), "ImageNet-1k's were chosen"
    if wanted is not None:
        return _from_file(Path(wanted).expanduser()), f"from {Path(wanted).name}"
    if reading.names is not None:
        return reading.names, "the checkpoint's config names them"
    if count == 1000 and reading.imagenet and (reading.layout == "timm" or reading.profile in PUBLIC_HEADS):
        return imagenet_1k(), f"assumed: published heads of 1000 classes of {reading.profile} are ImageNet-1k's"
    return None, "plain indices: nothing names the classes; set labels to a file, or to imagenet-1k"


def imagenet_1k() -> tuple[str, ...]:
    """ImageNet-1k's class names in the order of the heads."""
    return tuple(IMAGENET_1K.read_text(encoding="utf-8").splitlines())


def _from_file(path: Path) -> tuple[str, ...]:
    """One name a line, in the order of the head's outputs."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except PermissionError as error:
        raise forbidden(path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointNotFound(f"{path}: not readable as a list of labels, one a line ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())
