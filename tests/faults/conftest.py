"""Servers for the fault tests: one that everybody shares, and ones that break."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server import Server, serving

Faulty = Callable[..., AbstractContextManager[Server]]


def solid(colour: tuple[int, int, int], image_format: str = "PNG") -> bytes:
    """A picture of one colour, which comes through resizing as it is."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, image_format)
    return file.getvalue()


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits, so that they are reached soon."""
    log = tmp_path_factory.mktemp("strict") / "log"
    limits: dict[str, Any] = {
        "receive_timeout_s": 2,
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
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """A server whose engine breaks as the pictures tell it to; see `faulty.py`."""

    @contextmanager
    def run(ready: bool = True, **settings: object) -> Iterator[Server]:
        faults = {name: value for name, value in settings.items() if name.isupper()}
        for name, value in faults.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("FORWARDED", str(tmp_path / "forwarded"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        rest = {name: value for name, value in settings.items() if name not in faults}
        with serving(tmp_path / "log", ready=ready, module="tests.faults.faulty", **rest) as server:
            (tmp_path / "forwarded").write_text("")
            yield server

    assert os.name == "posix"
    return run
