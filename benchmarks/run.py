"""What every part of the benchmark is given, and what each shares: the model's directory, the pictures, the rounds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import load, models, services
from benchmarks.load import Load
from benchmarks.services import Service

EQUAL = 1e-3
"""The most by which probabilities may differ: several filters are all right, pictures of other sizes, means or channels
are not. Compared on PNG, because a reduced JPEG is another picture by as much as `decode=fast` promises."""


@dataclass(frozen=True)
class Run:
    """One run of the benchmark.

    seconds: that each measurement takes; rounds: how often it is taken, the services in turn.
    settings: of Vitrine, by their names.
    """

    folder: Path
    seconds: float
    rounds: int
    settings: dict[str, str]
    architectures: Sequence[models.Architecture]

    @cached_property
    def photo(self) -> bytes:
        """500 x 375."""
        return models.photo()

    def write(self, architecture: models.Architecture) -> Path:
        """A checkpoint of this architecture."""
        return models.write(architecture, self.folder)

    @contextmanager
    def vitrine(self, model: Path, **settings: object) -> Iterator[Service]:
        """Vitrine with this run's settings and these."""
        with services.vitrine(model, self.folder, **{**self.settings, **settings}) as service:
            yield service

    @contextmanager
    def all_three(self, model: Path) -> Iterator[list[Service]]:
        """Vitrine and the two that it is compared with, after they were found to answer alike."""
        with ExitStack() as stack:
            running = [
                stack.enter_context(self.vitrine(model)),
                stack.enter_context(services.plain(model, self.folder)),
                stack.enter_context(services.lit(model, self.folder)),
            ]
            self._compare(running)
            yield running

    def _compare(self, running: Sequence[Service]) -> None:
        """Print how far the answers lie apart. Raises RuntimeError where they are not the same without a setting."""
        apart = 0.0
        for picture in (models.small_png(), models.photo_png()):
            first, *others = [service.scores(picture) for service in running]
            for scores in others:
                apart = max(apart, *(abs(scores.get(place, 0) - first.get(place, 0)) for place in scores | first))
        print(f"The services answer alike: the probabilities of the best classes differ by at most {apart:.1e}.\n")
        if apart > EQUAL and not self.settings:
            raise RuntimeError(f"more than {EQUAL} is not the same answer")

    def in_turn(self, running: Sequence[Service], measure: Callable[[Service], Load]) -> list[Load]:
        """Each service's median round, by its rate; whatever else the machine does meanwhile meets all of them."""

        def alone(service: Service) -> Load:
            with ExitStack() as others:
                for other in running:
                    if other is not service:
                        others.enter_context(other.halted())
                return measure(service)

        rounds = [[alone(service) for service in running] for _ in range(self.rounds)]
        return [sorted(loads, key=lambda one: one.rate)[len(loads) // 2] for loads in zip(*rounds, strict=True)]


def row(*cells: object) -> None:
    """Print a row of a table: numbers with three digits or so."""
    print("| " + " | ".join(_cell(cell) for cell in cells) + " |", flush=True)


def header(*names: str) -> None:
    """Print a table's first two rows."""
    row(*names)
    row(*["---"] * len(names))


def _cell(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if cell >= 100 else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}"


def classify(picture: bytes, multipart: bool = True, query: str = "") -> bytes:
    """The request of a picture's classes."""
    return load.request(f"/classify{query}", picture, multipart)
