"""Take pictures out of a folder: some to calibrate with, and others to measure with."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.bulk.entries import read_file
from app.bulk.listing import Search
from app.errors import ImageProblem
from app.pictures.decode import MISSING, Limits, Picture, decode, limit_pillow, to_network
from app.pictures.pool import Transform
from app.settings import Settings
from models.preprocess import Pixels

CALIBRATED, MEASURED = 128, 512
"""How many pictures are used at most."""

LEAST = 32
"""Pictures of a folder that are needed: a quarter calibrates, the others measure."""


class TooFewPictures(Exception):
    """A folder has not enough pictures; the message says how many there are."""


@dataclass(frozen=True)
class Sample:
    """A decoded picture, and the digest of its file."""

    picture: Picture
    digest: bytes


@dataclass(frozen=True)
class Samples:
    """Different pictures.

    calibration, others: two parts without a picture in common.
    passed_over: how many files could not be read or decoded, or have the content of another one.
    """

    calibration: Sequence[Sample]
    others: Sequence[Sample]
    passed_over: int

    @property
    def digest(self) -> str:
        """The digest of the files to calibrate with, in order."""
        return hashlib.blake2b(b"".join(one.digest for one in self.calibration), digest_size=16).hexdigest()


def take_samples(settings: Settings, folder: Path) -> Samples:
    """Return pictures of a folder, in an order that depends on their names alone and not on their place.

    Raises PathNotFound and TooFewPictures.
    """
    paths = [Path(file.path) for file in Search([str(folder)], settings.image_formats) if file.problem is None]
    names = sorted(
        paths, key=lambda path: hashlib.blake2b(str(path.relative_to(folder)).encode("utf-8", "replace")).digest()
    )
    found: dict[bytes, Sample] = {}
    tried = 0
    for path in names:
        if len(found) == CALIBRATED + MEASURED:
            break
        tried += 1
        if (sample := _read(settings, path)) is not None:
            found.setdefault(sample.digest, sample)
    samples = list(found.values())
    if len(samples) < LEAST:
        detail = f"has {len(samples)} different pictures that can be read; at least {LEAST} are needed"
        raise TooFewPictures(f"{folder}: {detail}, and some hundreds are better")
    calibrated = min(CALIBRATED, len(samples) // 4)
    return Samples(samples[:calibrated], samples[calibrated:], tried - len(samples))


def _read(settings: Settings, path: Path) -> Sample | None:
    """Return the picture in a file; None if it has none that is accepted."""
    limits = Limits(settings.image_formats, settings.max_pixels, MISSING)
    limit_pillow(limits)
    try:
        data = read_file(str(path), settings.max_upload_bytes + 1)
        if len(data) > settings.max_upload_bytes:
            return None
        # At full scale: the same picture is resized to several sizes.
        return Sample(decode(data, limits, None, settings.colour), hashlib.blake2b(data, digest_size=16).digest())
    except (ImageProblem, OSError):
        return None


def pixels(samples: Sequence[Sample], transform: Transform) -> Iterator[Pixels]:
    """Yield the network's pixels of each picture: (3, height, width)."""
    for sample in samples:
        plan = transform.plan(sample.picture.size)
        yield to_network(sample.picture, plan, transform.preprocess.interpolation)
