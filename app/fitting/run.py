"""Fit a head from labelled pictures or vectors, and write its file: list, embed, fit, measure, write."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.bulk.atomic import atomic_write
from app.bulk.collection import running_service
from app.bulk.entries import as_text, read_file
from app.bulk.run import Export, Progress
from app.fitting.labels import BadLabels, beside, check_folder, class_of, read_labels
from app.fitting.vectors import Embedded, Failed, Vectors, embed, read_vectors, remove
from app.heads.examples import Examples, digest, labelled
from app.heads.file import head_bytes
from app.heads.fit import CannotFit, fit, measure
from app.heads.head import Head, Method, Quality
from app.schemas import EmbedQuery
from app.service import Service, space_of
from app.settings import Settings


@dataclass(frozen=True)
class Fitting:
    """What to fit.

    folder: with a folder of pictures for each class, or None.
    labels: a table of paths and labels, or None.
    vectors: a table of vectors of the paths in `labels`, or None to embed the pictures.
    validate: a folder like `folder`, of other pictures to measure with, or None for leave-one-out.
    output: the file to write.
    overwrite: replace what an interrupted run of other pictures has left beside the output.
    """

    folder: Path | None
    labels: Path | None
    vectors: Path | None
    validate: Path | None
    output: Path
    method: Method
    query: EmbedQuery
    overwrite: bool = False


@dataclass(frozen=True)
class Measured:
    """Labelled pictures and what a head says of them that it was fitted without.

    paths, classes: of the pictures, in order.
    likely: (n, K), the probabilities of the head's classes.
    answered: (n,), whether the answer says something.
    quality: of these answers.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    likely: NDArray[np.float32]
    answered: NDArray[np.bool_]
    quality: Quality


@dataclass(frozen=True)
class Fitted:
    """A head that was fitted and written.

    measured: by leave-one-out or, with `validate`, on other pictures.
    left_out: by leave-one-out, always: it is what finds labels that look wrong.
    failed: the files that have no vector.
    repeated: how many files are in their class more than once.
    """

    head: Head
    measured: Measured
    left_out: Measured
    failed: tuple[Failed, ...]
    repeated: int


async def fit_head(settings: Settings, job: Fitting, progress: Progress, validating: Progress) -> Fitted:
    """Fit the head and write its file.

    Raises BadLabels, BadVectors, CannotFit, what `export` raises, and Problem and CheckpointError as the service does.
    """
    for folder in (job.folder, job.validate):
        if folder is not None and (folder is job.validate or job.labels is None):
            check_folder(folder)
    async with running_service(settings) as service:
        vectors, labels, failed = await _examples(service, job, progress)
        space = space_of(service.engine, vectors.pool, vectors.resolution)
        examples = _labelled(vectors, labels, embedded=job.vectors is None)
        places = examples.first_places()
        kept = examples.at(places)
        head, likely = fit(kept, space, job.method)
        paths = tuple(vectors.paths[place] for place in places)
        left_out = Measured(paths, _classes(kept), likely, kept.counts[kept.labels] > 1, head.quality)
        measured = left_out
        if job.validate is not None:
            embedded = await _embed(service, job, [str(job.validate)], _scratch(job, "validate"), validating)
            failed += embedded.failed
            measured = _validate(head, embedded.vectors, job.validate)
            head = replace(head, quality=replace(measured.quality, suspects=()))
    with atomic_write(job.output) as unfinished:
        unfinished.write_bytes(head_bytes(head))
    for name in ("vectors", "validate"):
        remove(_scratch(job, name))
    return Fitted(head, measured, left_out, failed, len(examples) - len(kept))


async def _examples(
    service: Service, job: Fitting, progress: Progress
) -> tuple[Vectors, list[str], tuple[Failed, ...]]:
    """Return the vectors, the class of each, and the files that have none."""
    if job.labels is None:
        assert job.folder is not None  # noqa: S101 - the command line takes one of both
        embedded = await _embed(service, job, [str(job.folder)], _scratch(job, "vectors"), progress)
        classes = [class_of(job.folder, path) for path in embedded.vectors.paths]
        _check_classes(sorted(entry.name for entry in job.folder.iterdir() if entry.is_dir()), classes)
        return embedded.vectors, classes, embedded.failed
    table = read_labels(job.labels)
    if job.vectors is not None:
        vectors = read_vectors(job.vectors, service)
        known = {path: place for place, path in enumerate(vectors.paths)}
        if missing := [path for path in table if path not in known]:
            raise BadLabels(f"{job.labels}: {missing[0]!r} has no vector in {job.vectors}; paths must be written alike")
        places = [known[path] for path in table]
        chosen = replace(vectors, paths=tuple(table), vectors=vectors.vectors[places])
        return chosen, list(table.values()), ()
    labels = {beside(job.labels, path) if job.folder is None else str(job.folder / path): table[path] for path in table}
    embedded = await _embed(service, job, list(labels), _scratch(job, "vectors"), progress)
    classes = [labels[path] for path in embedded.vectors.paths]
    _check_classes(list(labels.values()), classes)
    return embedded.vectors, classes, embedded.failed


async def _embed(service: Service, job: Fitting, paths: Sequence[str], table: Path, progress: Progress) -> Embedded:
    return await embed(service, Export(paths, table, job.query, job.overwrite), progress)


def _scratch(job: Fitting, name: str) -> Path:
    """Return the table beside the output that keeps vectors until the head is written."""
    return job.output.with_name(f"{job.output.name}.{name}.npy")


def _check_classes(named: Sequence[str], found: Sequence[str]) -> None:
    """Raise CannotFit for a class of which no picture can be used: the head would lack it."""
    if missing := [name for name in dict.fromkeys(named) if not name.startswith(".") and name not in set(found)]:
        raise CannotFit(f"the class {missing[0]!r} has no picture that can be used")


def _labelled(vectors: Vectors, labels: list[str], *, embedded: bool) -> Examples:
    """Return the examples; the classes in alphabetical order, as ImageNet's are."""
    digests = [digest(read_file(path, -1)) if embedded else "" for path in vectors.paths]
    names = [as_text(Path(path).name) for path in vectors.paths]
    return labelled(vectors.vectors, labels, names, digests, tuple(sorted(set(labels))))


def _classes(examples: Examples) -> tuple[str, ...]:
    return tuple(examples.classes[label] for label in examples.labels)


def _validate(head: Head, vectors: Vectors, folder: Path) -> Measured:
    classes = [class_of(folder, path) for path in vectors.paths]
    if unknown := Counter(classes).keys() - set(head.classes):
        raise BadLabels(f"{folder}: the class {min(unknown)!r} is not one that the head is fitted for")
    others = labelled(vectors.vectors, classes, [""] * len(classes), [""] * len(classes))
    quality, likely = measure(head, others.vectors, classes)
    return Measured(vectors.paths, tuple(classes), likely, np.ones(len(classes), bool), quality)
