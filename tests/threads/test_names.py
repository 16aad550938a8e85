"""The names of threads are those that `top -H` shows."""

import sys
from pathlib import Path

import httpx
import pytest

from tests.server import Server, serving


def names(server: Server) -> list[str]:
    tasks = Path(f"/proc/{server.process.pid}/task")
    return [(task / "comm").read_text().strip() for task in tasks.iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="names are in /proc")
def test_the_kernel_knows_the_names(tmp_path: Path, cat: bytes) -> None:
    with serving(tmp_path / "log") as server:
        body = {"images": ["A" * 4]}
        assert httpx.post(f"{server.url}/classify", content=cat).status_code == 200
        assert httpx.post(f"{server.url}/classify", json=body).status_code == 415
        shown = names(server)
    assert {"device", "log", "decode_0", "worker_0"} <= set(shown)
