"""A real nginx in front of the service, where it is installed."""

import os
import shutil
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.documents.how_to import process


def require_nginx(*programs: str) -> None:
    """Skip the test where one of these programs is missing."""
    for program in programs or ("nginx",):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("nginx of the system writes into folders of its own, which only root may")


def nginx(folder: Path, command: str, port: int) -> ExitStack:
    """Start nginx by the page's command, with a pid file and logs in the folder, and wait until it listens."""
    stack = ExitStack()
    options = f"-e {folder}/nginx-errors -g 'daemon off; pid {folder}/nginx.pid;'"
    started = stack.enter_context(process(folder, folder / "nginx-log", f"exec {command} {options}"))
    end = time.monotonic() + 30
    while not listens(port):
        assert started.poll() is None, (folder / "nginx-log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    return stack


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
