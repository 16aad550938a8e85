"""Raw sockets, which send what no HTTP client would."""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server import Server


@dataclass
class Answer:
    """What the server sent until it closed the connection or a timeout passed."""

    raw: bytes
    closed: bool
    seconds: float

    @property
    def final(self) -> bytes:
        """The last response; interim responses (1xx) are skipped, as every client has to."""
        raw = self.raw
        while raw.startswith(b"HTTP/1.1 1"):
            raw = raw.partition(b"\r\n\r\n")[2]
        return raw

    @property
    def status(self) -> int:
        return int(self.final.split(b" ", 2)[1]) if self.final else 0

    @property
    def headers(self) -> dict[str, str]:
        lines = self.final.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def json(self) -> Any:
        return json.loads(self.final.partition(b"\r\n\r\n")[2])


@contextmanager
def connected(server: Server, timeout_s: float = 30) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s) as sock:
        yield sock


def read(sock: socket.socket, patience_s: float = 15) -> Answer:
    """Read until the server closes the connection, for at most `patience_s`."""
    started, raw = time.monotonic(), b""
    while (left := started + patience_s - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(65536)
        except TimeoutError:
            break
        except ConnectionResetError:
            return Answer(raw, True, time.monotonic() - started)
        if not data:
            return Answer(raw, True, time.monotonic() - started)
        raw += data
    return Answer(raw, False, time.monotonic() - started)


def ask(server: Server, *parts: bytes, patience_s: float = 15) -> Answer:
    """Send all parts, as far as the server accepts them, and read until it closes the connection."""
    with connected(server) as sock:
        send(sock, parts)
        return read(sock, patience_s)


def send(sock: socket.socket, parts: Iterable[bytes]) -> int:
    """Send all parts and return how many bytes the server accepted."""
    sent = 0
    try:
        for part in parts:
            sock.sendall(part)
            sent += len(part)
    except OSError:
        pass
    return sent


def post(path: str, body: bytes = b"", **headers: object) -> bytes:
    """Return a POST request that closes its connection. A header of None is omitted."""
    fields: dict[str, object] = {"host": "x", "connection": "close", "content-length": len(body)}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()


def resident_bytes(server: Server) -> int:
    """Return the resident memory of the process."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peak(server: Server) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def peak_bytes(server: Server) -> int:
    """Return the peak of the resident memory since `forget_peak`."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
