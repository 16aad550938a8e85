"""What all sections of the benchmark share: models, pictures, running services, rounds, and the printing of tables."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from benchmarks import load, models, photos, services
from benchmarks.load import Load
from benchmarks.services import Service

T = TypeVar("T")  # what one round measures

EQUAL = {"float32": 1e-3, "bfloat16": 1e-2, "float16": 1e-2}
"""The largest allowed difference of probabilities, by what Vitrine computes in; the others compute in float32.
It admits other filters and half precision, but no other sizes, means or channels. PNGs are compared, because
`decode=fast` decodes a JPEG at a reduced size and so changes its pixels."""

COMMON = 3
"""Of the five best classes so many have to be among the other service's: the last ones can change places."""


@dataclass(frozen=True)
class Run:
    """One run of the benchmark.

    Args:
        folder: for models and logs.
        seconds: the duration of each measurement.
        rounds: how often each measurement is repeated, with the services in turn.
        settings: of Vitrine, by name.
        architectures: the networks to measure.
    """

    folder: Path
    seconds: float
    rounds: int
    settings: dict[str, str]
    architectures: Sequence[models.Architecture]

    @cached_property
    def photo(self) -> bytes:
        """A JPEG of 500 x 375 pixels."""
        return photos.photo()

    def write(self, architecture: models.Architecture) -> Path:
        """Write a checkpoint of this architecture and return its path."""
        return models.write(architecture, self.folder)

    def quantised(self, network: Path) -> Path:
        """Write a checkpoint of 8 bits, which Vitrine makes from a network, unless it is there; return its path."""
        pictures, folder = self.folder / "calibration", self.folder / f"{network.name}-int8"
        if folder.exists():
            return folder
        pictures.mkdir(exist_ok=True)
        for number, picture in enumerate(photos.calibration()):
            picture.save(pictures / f"{number}.png")
        services.run_once("app", "quantize", str(network), "--pictures", str(pictures), "-o", str(folder), "--accept")
        return folder

    @contextmanager
    def vitrine(self, model: Path, **settings: object) -> Iterator[Service]:
        """Run Vitrine with this run's settings and `settings`."""
        with services.vitrine(model, self.folder, **{**self.settings, **settings}) as service:
            yield service

    @contextmanager
    def all_three(self, model: Path) -> Iterator[list[Service]]:
        """Run Vitrine and the two services that it is compared with, after checking that their answers agree."""
        with ExitStack() as stack:
            running = [
                stack.enter_context(self.vitrine(model)),
                stack.enter_context(services.plain(model, self.folder)),
                stack.enter_context(services.lit(model, self.folder)),
            ]
            self._compare(running)
            yield running

    def _compare(self, running: Sequence[Service]) -> None:
        """Print the largest difference of the answers. Raises RuntimeError if they differ with the default settings."""
        difference, common, dtype = 0.0, len(running[0].scores(photos.small_png())), running[0].dtype
        for picture in (photos.small_png(), photos.photo_png()):
            first, *others = [service.scores(picture) for service in running]
            for scores in others:
                both = scores.keys() & first.keys()
                common = min(common, len(both))
                difference = max(difference, *(abs(scores[i] - first[i]) for i in both))
        same = f"at least {common} of the five best classes are the same"
        print(f"Vitrine computes in {dtype}; {same}, and their probabilities differ by at most {difference:.1e}.\n")
        if (difference > EQUAL[dtype] or common < COMMON) and not self.settings:
            raise RuntimeError(f"the answers of the services differ by more than {EQUAL[dtype]}")

    def in_turn(self, running: Sequence[Service], measure: Callable[[Service], Load]) -> list[Load]:
        """Return each service's median round by rate; taking turns exposes all services to the same disturbances."""
        rounds = self.rounds_of(running, measure)
        return [sorted(loads, key=lambda one: one.rate)[len(loads) // 2] for loads in rounds]

    def rounds_of(self, running: Sequence[Service], measure: Callable[[Service], T]) -> list[tuple[T, ...]]:
        """Measure the services in turn, while the others are paused. Returns each service's rounds."""

        def alone(service: Service) -> T:
            with ExitStack() as others:
                for other in running:
                    if other is not service:
                        others.enter_context(other.paused())
                return measure(service)

        rounds = [[alone(service) for service in running] for _ in range(self.rounds)]
        return list(zip(*rounds, strict=True))


def row(*cells: object) -> None:
    """Print a row of a table, with numbers of about three digits."""
    print("| " + " | ".join(_cell(cell) for cell in cells) + " |", flush=True)


def header(*names: str) -> None:
    """Print the first two rows of a table."""
    row(*names)
    row(*["---"] * len(names))


def _cell(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if cell >= 100 else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}"


def classify(picture: bytes, multipart: bool = True, query: str = "") -> bytes:
    """Return the bytes of a request to classify a picture."""
    return load.request(f"/classify{query}", picture, multipart)
