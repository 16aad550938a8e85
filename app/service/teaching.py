"""Fit a head from pictures of named classes while the service answers: embed them, fit on a thread, keep the head."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from app.errors import ImageProblem, Problem
from app.heads.examples import Examples, digest, labelled
from app.heads.fit import CannotFit, fit
from app.heads.head import Head, Method, Space
from app.heads.methods.moments import Moments
from app.heads.store import Changed, Condition, Full, NotSaved, TooLarge, always
from app.inference.engine import Engine
from app.inference.task import Task
from app.pictures.prepared import Resolution, Upload
from app.service.classes import check_fits, resolution_of, space_of, stack
from app.service.heads import Heads, missing
from app.service.outcome import ImageAnswer
from app.service.service import Service
from app.telemetry.timings import Timings
from app.threads.names import show_name
from app.threads.pace import Pace

REST, MOST_REST_S = 8.0, 1.5
"""How long the thread rests between fits, as a multiple of the last one's processor time, and at most."""

MOST_LEFT_OUT = 2500
"""Examples that tell how good a head is: all would take longer than the fit. The standard error is a point at most."""

ATTEMPTS = 5
"""How often examples are added anew when another writer came first, for a client that does not mind."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Picture:
    """A labelled picture of a request.

    label: its class.
    place: its position among the pictures of that class in the request, from 0.
    name: of its file, without a folder; may be empty.
    """

    label: str
    place: int
    name: str
    file: Upload


@dataclass(frozen=True)
class Refused:
    """A picture that cannot be used, and why."""

    picture: Picture
    problem: ImageProblem

    def described(self, request_id: str) -> dict[str, Any]:
        """Return where the picture is in the request, and what its problem is."""
        where = {"class": self.picture.label, "place": self.picture.place, "name": self.picture.name}
        return where | self.problem.body(request_id)


@dataclass(frozen=True)
class Write:
    """What a request writes: the head of a name, on a condition, with or without the pictures that cannot be used."""

    name: str
    condition: Condition | None = None
    skip_bad: bool = False


class BadExamples(Problem):
    """Some pictures of a request cannot be used; nothing is fitted. `why` says it where they may be left out."""

    def __init__(self, refused: Sequence[Refused], why: str = "") -> None:
        first = refused[0]
        named = f" ({first.picture.name})" if first.picture.name else ""
        where = f"picture {first.picture.place} of the class {first.picture.label!r}{named}"
        others = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        detail = f"{where} cannot be used: {first.problem.detail}{others}"
        detail += f"; nothing was fitted ({why or 'skip_bad=true leaves such pictures out'})"
        super().__init__("bad_examples", detail)
        self.refused = refused


@dataclass(frozen=True)
class Taught:
    """The head that was fitted and kept, the pictures that were left out, and how many came twice."""

    head: Head
    refused: Sequence[Refused]
    repeated: int


class Teaching:
    """Fits heads for a service, one after the other, on a thread of their own.

    Args:
        service: embeds the pictures.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._thread = ThreadPoolExecutor(1, "heads", initializer=_begin)
        self._moments = Moments()
        self._pace = Pace(REST, MOST_REST_S)

    @property
    def _heads(self) -> Heads:
        return self._service.heads

    async def fit(
        self, engine: Engine, write: Write, pictures: Sequence[Picture], asked: tuple[Method, str | None, Resolution]
    ) -> Taught:
        """Fit a head from pictures and keep it under a name, in the place of the one that is there.

        `asked` is the method, the pool (None: the usual one) and the resolution. Raises Problem.
        """
        name, condition = write.name, write.condition or always
        method, pool, resolution = asked
        space = space_of(engine, pool, resolution)
        self._check(len({picture.label for picture in pictures}), len(pictures))
        there = (await self._heads.kept()).get(name)
        self._check_version(name, there.head.version if there and there.head else None, condition)
        examples, refused = await self._embed(engine, pictures, space.pool, resolution, skip_bad=write.skip_bad)
        kept = examples.at(examples.first_places())
        self._check(len(kept.classes), len(kept))
        if refused and len(kept.classes) < 2:
            raise BadExamples(refused, "too few classes are left for a head")
        head = await self._on_thread(lambda: self._fit_and_keep(name, (kept, space, method), condition))
        return Taught(head, refused, len(examples) - len(kept))

    async def add(self, engine: Engine, write: Write, pictures: Sequence[Picture]) -> Taught:
        """Add pictures to a head and fit it again. Without a condition, a change by another writer is built upon."""
        name, condition = write.name, write.condition
        head = await self._heads.named(name)
        check_fits(engine, head, f"the head {name!r}")
        self._check_version(name, head.version, condition or always)
        space = head.space
        self._thread.submit(self._moments.update, head.examples)  # while the pictures are embedded
        more, refused = await self._embed(engine, pictures, space.pool, resolution_of(space), skip_bad=write.skip_bad)
        for attempt in range(ATTEMPTS):
            if head.space != space:
                break
            try:
                found, repeated = await self._on_thread(partial(self._grow, name, head, more))
            except Problem as problem:
                if problem.code != "head_changed" or condition is not None or attempt == ATTEMPTS - 1:
                    raise
                await self._heads.refresh()
                head = await self._heads.named(name)
                continue
            return Taught(found, refused, repeated)
        raise Problem("head_changed", f"the head {name!r} was replaced by one of other vectors meanwhile")

    async def delete(self, name: str, condition: Condition = always) -> str:
        """Delete a head, whole or broken, and return its version. Raises Problem."""
        kept = (await self._heads.kept()).get(name)
        # Not on the thread that fits, where it would wait for others' fits and for its rest.
        there = await asyncio.to_thread(lambda: _told(lambda: self._heads.store.delete(name, condition)))
        if kept is None or not there:
            raise missing(name)
        return kept.head.version if kept.head else ""

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _embed(
        self, engine: Engine, pictures: Sequence[Picture], pool: str, resolution: Resolution, *, skip_bad: bool
    ) -> tuple[Examples, Sequence[Refused]]:
        """Return the examples of the pictures that can be used, and the others."""
        task = Task.vector(engine, pool, normalize=True)
        at_once = self._service.settings.max_images_per_request
        outcomes: list[ImageAnswer | ImageProblem] = []
        for start in range(0, len(pictures), at_once):
            files = [picture.file for picture in pictures[start : start + at_once]]
            outcomes += await self._service.answer(engine, files, resolution, task, Timings())
        pairs = list(zip(pictures, outcomes, strict=True))
        refused = [Refused(picture, found) for picture, found in pairs if isinstance(found, ImageProblem)]
        good = [(picture, found) for picture, found in pairs if isinstance(found, ImageAnswer)]
        if refused and (not skip_bad or not good):
            raise BadExamples(refused, "no picture is left" if skip_bad else "")
        files = [picture.file for picture, _ in good]
        digests = await asyncio.to_thread(lambda: [digest(file) for file in files if isinstance(file, bytes)])
        vectors = stack([found for _, found in good])
        labels, names = [picture.label for picture, _ in good], [picture.name for picture, _ in good]
        return labelled(vectors, labels, names, digests), refused

    def _check(self, classes: int, examples: int) -> None:
        settings = self._service.settings
        if classes > settings.max_head_classes:
            detail = f"the head would have {classes} classes, and {settings.max_head_classes} are allowed"
            raise Problem("too_many_classes", f"{detail} (max_head_classes)")
        if examples > settings.max_head_examples:
            detail = f"the head would have {examples} examples, and {settings.max_head_examples} are allowed"
            raise Problem("too_many_examples", f"{detail} (max_head_examples)")

    @staticmethod
    def _check_version(name: str, version: str | None, condition: Condition) -> None:
        """Raise Problem before the work, if the condition of a write does not hold already."""
        if not condition(version):
            there = f"its version is {version}" if version else "there is no such head"
            raise Problem("head_changed", f"the head {name!r} is not what the request expects: {there}")

    def _grow(self, name: str, before: Head, more: Examples) -> tuple[Head, int]:
        """Fit a head with more examples and keep it, if nobody has replaced it since; count those it has already."""
        examples = before.examples.with_more(more)
        kept = examples.at(examples.first_places())
        self._check(len(kept.classes), len(kept))
        fitted = kept, before.space, before.method
        head = self._fit_and_keep(name, fitted, lambda there: there == before.version, before)
        return head, len(examples) - len(kept)

    def _fit_and_keep(
        self, name: str, fitted: tuple[Examples, Space, Method], condition: Condition, before: Head | None = None
    ) -> Head:
        examples, space, method = fitted
        with self._pace:
            head = fit(examples, space, method, self._moments, MOST_LEFT_OUT, before)[0]
            return _told(lambda: self._heads.store.put(name, head, condition))

    async def _on_thread(self, work: Callable[[], Value]) -> Value:
        def run() -> Value:
            try:
                return work()
            except CannotFit as error:
                raise Problem("too_few_examples", str(error)) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


def _told(work: Callable[[], Value]) -> Value:
    """Return what `work` returns; raise what prevents it as a Problem."""
    try:
        return work()
    except Changed as error:
        raise Problem("head_changed", str(error)) from error
    except Full as error:
        raise Problem("too_many_heads", f"{error} (max_heads)") from error
    except TooLarge as error:
        raise Problem("heads_too_large", f"{error} (max_heads_bytes)") from error
    except NotSaved as error:
        raise Problem("head_not_saved", f"the head could not be saved: {error}", {"Retry-After": "1"}) from error


def _begin() -> None:
    show_name()
    # One core: threads of one product wait for each other while answers are computed. Its priority is that of forward
    # passes: with a lower one a fit took two to five seconds beside two of them on two cores.
    torch.set_num_threads(1)
