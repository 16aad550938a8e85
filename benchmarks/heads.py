"""Measure heads fitted from a few pictures of Tiny-ImageNet, against scikit-learn's classifiers on the same vectors.

    python -m benchmarks.heads ../shared/data/tiny-imagenet-val-2000.zip

Prints the tables of docs/heads.md: accuracy on the other pictures and by leave-one-out, the calibration error, and the
time of a fit. Each number is the mean of three random choices of the pictures.
"""

import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV

from app.heads.calibration import calibration_error
from app.heads.examples import Examples, labelled
from app.heads.fit import fit, measure
from app.heads.head import METHODS, Space
from app.inference.engine import Engine
from app.inference.jobs import Job
from app.pictures.decode import Limits, decode, to_network
from app.settings import FORMATS, SHIPPED_MODEL
from models.checkpoints.checkpoint import open_checkpoint
from models.network.vit import Readout

try:
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    LogisticRegression = RidgeClassifierCV = None

CHOICES = 3
BATCH = 32
SPACE = Space("vit-small-tiny-imagenet", "", "float32", "cls")
BIG = {"examples": 10_000, "dim": 768, "classes": 100}

Array = NDArray[Any]
Peer = Callable[[Array, Array, Array], Array]
"""(vectors, labels, others) -> the classes of the others."""


def embed(archive: Path) -> tuple[Array, list[str]]:
    """Return the [CLS] vector and the class of each picture."""
    engine = Engine(open_checkpoint(SHIPPED_MODEL), "cpu", "float32")
    preprocess, patch = engine.checkpoint.content.preprocess, engine.config.patch_size
    limits = Limits(FORMATS, 10**7)
    jobs, classes, vectors = [], [], []
    with zipfile.ZipFile(archive) as files:
        lines = files.read("labels.tsv").decode().splitlines()[1:]
        for name, label in (line.split("\t") for line in lines):
            picture = decode(files.read(name), limits)
            pixels = to_network(picture, preprocess.plan(picture.size, patch), preprocess.interpolation)
            jobs.append(Job(pixels, Readout.CLS))
            classes.append(label)
    for start in range(0, len(jobs), BATCH):
        vectors += [np.asarray(answer) for answer in engine.run(jobs[start : start + BATCH])]
    return np.stack(vectors), classes


def regression(vectors: Array, labels: Array, others: Array) -> Array:
    """LogisticRegression with its defaults, but for the limit of iterations."""
    return np.asarray(LogisticRegression(max_iter=1000).fit(vectors, labels).predict(others))


def ridge(vectors: Array, labels: Array, others: Array) -> Array:
    """RidgeClassifierCV with its defaults: the strengths 0.1, 1 and 10."""
    return np.asarray(RidgeClassifierCV().fit(vectors, labels).predict(others))


def choose(classes: Array, count: int, seed: int) -> tuple[Array, Array]:
    """Return the places of `count` random pictures of each class, and of all others."""
    random = np.random.default_rng(seed)
    inside = [random.permutation(np.flatnonzero(classes == number))[:count] for number in range(classes.max() + 1)]
    chosen = np.concatenate(inside)
    return chosen, np.setdiff1d(np.arange(len(classes)), chosen)


def examples_at(vectors: Array, names: Array, places: Array) -> Examples:
    """Return the examples at these places."""
    blank = [""] * len(places)
    return labelled(vectors[places], names[places].tolist(), blank, blank)


def accuracies(vectors: Array, names: Array, count: int) -> None:
    """Print a row for each method and each of scikit-learn's classifiers."""
    _, classes = np.unique(names, return_inverse=True)
    rows: dict[str, list[tuple[float, ...]]] = {}
    pooled: dict[str, list[tuple[Array, Array]]] = {}
    for seed in range(CHOICES):
        chosen, others = choose(classes, count, seed)
        examples, rest = examples_at(vectors, names, chosen), examples_at(vectors, names, others)
        for method in METHODS:
            head, _ = fit(examples, SPACE, method)
            index = {name: place for place, name in enumerate(head.classes)}
            quality, likely = measure(head, rest.vectors, names[others].tolist())
            assert quality.accuracy is not None
            assert head.quality.accuracy is not None
            rows.setdefault(method, []).append((quality.accuracy, head.quality.accuracy))
            right = np.array([index[name] for name in names[others]], np.int32)
            pooled.setdefault(method, []).append((likely, right))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for name, peer in (("LogisticRegression", regression), ("RidgeClassifierCV", ridge)):
            for kind, rows_of in (("as they are", vectors), ("of length 1", unit)):
                answers = peer(rows_of[chosen], classes[chosen], rows_of[others])
                rows.setdefault(f"{name}, vectors {kind}", []).append(((answers == classes[others]).mean(),))
    for name, found in rows.items():
        means = [f"{100 * mean:.1f}%" for mean in np.mean(found, axis=0)]
        error = calibration_error(*map(np.concatenate, zip(*pooled[name], strict=True))) if name in pooled else None
        cells = [*means, *["-"] * (2 - len(means)), "-" if error is None else f"{error:.3f}"]
        print(f"| {count} | {name} | {' | '.join(cells)} |", flush=True)


def duration() -> None:
    """Print the least time of five fits of many examples."""
    random = np.random.default_rng(0)
    labels = random.integers(0, BIG["classes"], BIG["examples"])
    centres = random.normal(size=(BIG["classes"], BIG["dim"]))
    vectors = (centres[labels] + 3 * random.normal(size=(BIG["examples"], BIG["dim"]))).astype(np.float32)
    blank = [""] * len(labels)
    examples = labelled(vectors, [str(label) for label in labels], blank, blank)
    for method in ("ridge", "mean"):
        times = []
        for _ in range(5):
            started = time.perf_counter()
            fit(examples, SPACE, method)
            times.append(time.perf_counter() - started)
        print(f"{method}: {min(times):.2f} s for {BIG} on {torch.get_num_threads()} threads", file=sys.stdout)


def main() -> None:
    """Print the tables."""
    vectors, classes = embed(Path(sys.argv[1]))
    print("| pictures | method | others | left out | calibration |\n|---|---|---|---|---|")
    for count in (5, 8):
        accuracies(vectors, np.array(classes), count)
    print()
    duration()


if __name__ == "__main__":
    main()
