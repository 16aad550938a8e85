"""Servers for the fault tests: a shared one with small limits, and ones that break."""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server import Server, serving

Faulty = Callable[..., AbstractContextManager[Server]]


def solid(colour: tuple[int, int, int], image_format: str = "PNG") -> bytes:
    """Return an image of one colour, which resizing does not change."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, image_format)
    return file.getvalue()


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits, so that tests reach them soon."""
    log = tmp_path_factory.mktemp("strict") / "log"
    limits: dict[str, Any] = {
        "receive_timeout_s": 2,
        "keep_alive_s": 3,
        "max_upload_bytes": 2**20,
        "max_images_per_request": 4,
        "max_pixels": 4_000_000,
    }
    with serving(log, **limits) as server:
        yield server
        assert "Traceback" not in log.read_text()
        assert '"level":"error"' not in log.read_text()


@pytest.fixture
def forwarded(tmp_path: Path) -> Callable[[], list[str]]:
    """The colours of the images that reached the forward pass of the `faulty` server."""
    return lambda: (tmp_path / "forwarded").read_text().splitlines()


@pytest.fixture
def faulty(tmp_path: Path) -> Faulty:
    """A server whose engine breaks on images of certain colours; see `faulty.py`."""
    return faulty_in(tmp_path)


@pytest.fixture(scope="module")
def breaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A `faulty` server shared by the tests of faults that a server survives."""
    with faulty_in(tmp_path_factory.mktemp("breaking"))() as server:
        yield server


def faulty_in(folder: Path) -> Faulty:
    @contextmanager
    def run(ready: bool = True, **settings: object) -> Iterator[Server]:
        faults = {name: value for name, value in settings.items() if name.isupper()}
        rest = {name: value for name, value in settings.items() if name not in faults}
        with pytest.MonkeyPatch.context() as variables:
            for name, value in {"FORWARDED": folder / "forwarded", "OMP_NUM_THREADS": 1, **faults}.items():
                variables.setenv(name, str(value))
            with serving(folder / "log", ready=ready, module="tests.faults.faulty", **rest) as server:
                (folder / "forwarded").write_text("")
                yield server

    return run
