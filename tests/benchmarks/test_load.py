"""The load generator: a service that hangs does not hang the benchmark."""

import socket

import pytest

from benchmarks import load


def test_a_service_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "HANG_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(RuntimeError, match="not answered"):
        load.closed(silent.getsockname()[1], 2, [load.get("/")], 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(RuntimeError, match="not answered"):
        load.ask(silent.getsockname()[1], load.get("/"))
