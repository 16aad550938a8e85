"""How the images of a request are classified: by the checkpoint's own head, or by a fitted one.

A fitted head reads a vector of the network, of length 1. The network is asked for that vector, and its answer becomes
classes here; so one forward pass serves requests for vectors and for the classes of any head.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageProblem, Problem
from app.heads.head import Head, Space
from app.inference.engine import Engine
from app.inference.jobs import Answer, Ranking
from app.inference.task import POOLS, Task
from app.pictures.prepared import Resolution
from app.service.fingerprint import answer_fingerprint
from app.service.outcome import ImageAnswer


@dataclass(frozen=True)
class Classes:
    """The task of a request for classes, and how its answers are read.

    task: what the network is asked.
    resolution: at which the images are seen.
    names: of the classes.
    activation: the function that turns scores into probabilities.
    top_k: the number of best classes; None is the probabilities of all classes in their order.
    head: the fitted head; None for the checkpoint's own.
    name: of the fitted head; empty for the one that the service was started with.
    """

    task: Task
    resolution: Resolution
    names: tuple[str, ...]
    activation: Literal["softmax", "sigmoid"]
    top_k: int | None
    head: Head | None = None
    name: str = ""

    def read(self, answer: object) -> Answer:
        """Return the best classes, or all probabilities, from the network's answer."""
        if self.head is None:
            return cast(Answer, answer)
        likely = self.head.probabilities(cast(NDArray[np.float32], answer)[None])[0]
        if self.top_k is None:
            return likely
        count = self.top_k or len(likely)
        best = np.argsort(-likely, kind="stable")[:count]
        return Ranking(best, likely[best])

    def answered(self, outcome: ImageAnswer | ImageProblem) -> ImageAnswer | ImageProblem:
        """Return an outcome with the answer that `read` gives."""
        return outcome if isinstance(outcome, ImageProblem) else replace(outcome, answer=self.read(outcome.answer))

    def named(self, answer: object) -> list[dict[str, Any]]:
        """Return the best classes, each with label, index and score, from the network's answer."""
        return cast(Ranking, self.read(answer)).named(self.names)

    def remarks(self, answer: object, explain: int) -> dict[str, Any]:
        """Return what a fitted head says of an image beside its classes; `explain` nearest examples of the best one."""
        if self.head is None:
            return {}
        vector = cast(NDArray[np.float32], answer)
        likely = self.head.probabilities(vector[None])[0]
        best = int(likely.argmax())
        found = {"confidence": likely[best], "distance": self.head.distances(vector[None])[0]}
        return found | ({"nearest": self.head.nearest(vector, best, explain)} if explain else {})

    @property
    def version(self) -> dict[str, Any]:
        """The member of an answer that says which fitted head gave the classes, if one did."""
        return {} if self.head is None else {"head": {"name": self.name or None, "version": self.head.version}}

    def fingerprint(self, engine: Engine) -> str:
        """Return the fingerprint of the answers: of the vectors and, for a fitted head, of the head."""
        found = answer_fingerprint(engine, self.resolution, self.task)
        if self.head is None:
            return found
        return hashlib.blake2b(f"{found} {self.head.version}".encode(), digest_size=12).hexdigest()


def own_classes(engine: Engine, resolution: Resolution, top_k: int | None) -> Classes:
    """Return the classes of the checkpoint's own head. Raises Problem for a model without one."""
    labels = engine.labels
    return Classes(Task.classes(engine, top_k), resolution, labels.names, labels.activation, top_k)


def fitted_classes(engine: Engine, head: Head, name: str, asked: Resolution, top_k: int | None) -> Classes:
    """Return the classes of a fitted head, at the resolution that it was fitted at.

    Raises Problem for a head of other vectors than this engine's, and for a request at another resolution.
    """
    called = f"the head {name!r}" if name else "the head of this service"
    check_fits(engine, head, called)
    own = resolution_of(head.space)
    task = vector_task(engine, head.space.pool)
    if any(asked) and answer_fingerprint(engine, asked, task) != head.space.fingerprint:
        height, width = engine.network_size(*own)
        fitted = f"{own.max_patches} patches" if own.max_patches else f"{height}x{width}"
        detail = f"{called} was fitted at {fitted}{f' with resize={own.resize}' if own.resize else ''}"
        raise Problem("invalid_parameter", f"{detail}, and answers at no other resolution; leave it out of the request")
    return Classes(task, asked if any(asked) else own, head.classes, "softmax", top_k, head, name)


def vector_task(engine: Engine, pool: str | None) -> Task:
    """Return the task of the vector that a head reads. Raises Problem for a pool that the model does not have."""
    vector = Task.vector(engine, pool, normalize=True)
    return Task(vector.readout, vector.normalize, classifies=True)


def space_of(engine: Engine, pool: str | None, resolution: Resolution) -> Space:
    """Return the space of an engine's vectors: of a pool, None being the usual one, at a resolution."""
    task = vector_task(engine, pool)
    name = next(name for name, readout in POOLS.items() if readout is task.readout)
    fingerprint = answer_fingerprint(engine, resolution, task)
    return Space(engine.checkpoint.name, fingerprint, engine.dtype, name, *resolution)


def resolution_of(space: Space) -> Resolution:
    """Return the resolution that a head was fitted at."""
    return Resolution(space.size, cast(Any, space.resize), space.max_patches)


def fits(engine: Engine, space: Space) -> bool:
    """Return whether a head reads vectors that this engine answers."""
    try:
        return space_of(engine, space.pool, resolution_of(space)).fingerprint == space.fingerprint
    except Problem:  # the model has no such pool
        return False


def check_fits(engine: Engine, head: Head, called: str) -> None:
    """Raise Problem for a head of other vectors than this engine's; `called` begins the sentence: "the head 'pets'"."""
    if not fits(engine, head.space):
        raise Problem("head_stale", f"{called} {misfit(engine, head.space)}")


def misfit(engine: Engine, space: Space) -> str:
    """Return how a head that does not fit differs; the end of a sentence about it."""
    fitted, here = f"{space.model} in {space.dtype}", f"{engine.checkpoint.name} in {engine.dtype}"
    why = "another model or dtype" if fitted != here else "other weights, preprocessing or numerics"
    detail = f"was fitted on vectors of {fitted}, and this service runs {here}"
    return f"{detail}: their fingerprints differ ({why}); fit the head again"


def stack(outcomes: Sequence[ImageAnswer]) -> NDArray[np.float32]:
    """Return the vectors (n, D) of images."""
    return np.stack([cast(NDArray[np.float32], outcome.answer) for outcome in outcomes])
