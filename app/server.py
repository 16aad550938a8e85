"""The server process: bind the port before anything slow begins, run uvicorn, drain on a signal.

On SIGTERM or SIGINT `/readyz` answers 503 at once, and every answer ends its connection. Requests are served for
another `drain_delay_s`, so that a load balancer can send them elsewhere. Then the port is closed, connections that the
kernel has accepted by then are served too, later requests on open connections are refused, and the process ends when
all requests are answered, or after `drain_timeout_s`. A second signal ends the process at once, and so does the first
one while the model is loading: no request has been accepted then.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import uvicorn
from fastapi import FastAPI

from app.http.connections.connection import Connection
from app.http.connections.shared import Connections
from app.http.headers.origins import Origins
from app.http.middleware import record_refusal
from app.settings import Settings
from app.telemetry import logs, tracing
from app.threads.names import show_name

if TYPE_CHECKING:  # it imports torch, and the port is bound before that
    from app.service import Service

logger = logging.getLogger("vitrine")

TRANSIT_S = 0.2
"""Time for requests that are in transit on open connections when the port is closed."""

TRANSIT_REPEATS = 4
"""How often that time is repeated while a new connection has not sent its first request."""


def bind(settings: Settings) -> socket.socket:
    """Bind and listen. Raises OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(2048)
    return listener


def authority(host: str, port: int) -> str:
    """The host and the port as a URL has them: an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url(listener: socket.socket) -> str:
    """The address to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = "localhost"
    return f"http://{authority(host, port)}"


def run(app: FastAPI, settings: Settings, listener: socket.socket) -> NoReturn:
    """Serve until told to stop, then end the process.

    The exit status is 1 if the model could not be loaded or was lost; else the process ends by the signal that stopped
    it, as a shell or a supervisor expects (143 for SIGTERM, 130 for SIGINT).
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,  # the middleware writes one line for each request
        server_header=False,
        proxy_headers=False,  # app/http/headers/proxy.py reads them, under every server
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # closing a terminal does not end a service
    server = _Server(config, service)
    server.run([listener])
    _end(server.stopped_by if service.runtime.failure is None else None)


def _end(stopped_by: int | None) -> NoReturn:
    """End the process without Python's own teardown.

    A thread that computes cannot be interrupted: during the teardown it, or torch's own threads, may print an error of
    an interpreter that is half gone, and a load that hangs would be waited for.
    """
    tracing.flush()
    logs.finish()
    if stopped_by is None:
        os._exit(1)
    signal.signal(stopped_by, signal.SIG_DFL)
    os.kill(os.getpid(), stopped_by)
    os._exit(128 + stopped_by)  # process 1 of a container is not ended by a signal of its own


class _Server(uvicorn.Server):
    """uvicorn's server, with a stop that loses no request."""

    def __init__(self, config: uvicorn.Config, service: "Service") -> None:
        super().__init__(config)
        self.server_state: Connections = Connections(
            service.settings.receive_timeout_s,
            service.settings.keep_alive_s,
            Origins(service.settings.cors_origins),
            partial(record_refusal, service.metrics),
        )
        self._service = service
        self.stopped_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; threads of asyncio's default pool show their names."""
        pool = ThreadPoolExecutor(thread_name_prefix="worker", initializer=show_name)
        asyncio.get_running_loop().set_default_executor(pool)
        await super().startup(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT until the process ends.

        uvicorn hands them back to the former handlers when the loop has ended, and raises the signal again; a second
        one would then meet a Python that is being torn down, and Ctrl-C would end in a KeyboardInterrupt.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Start the drain on SIGTERM or SIGINT: `/readyz` answers 503 from now on."""
        if self.should_exit:
            os._exit(128 + sig)
        self._service.runtime.leaving = True
        self.server_state.leaving = True
        self.should_exit, self.stopped_by = True, sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain."""
        if self._service.runtime.state == "loading":
            _end(self.stopped_by)  # there is nothing to wait for
        if self._service.runtime.state == "ready":
            await asyncio.sleep(self._service.settings.drain_delay_s)
        for listener in sockets or []:
            await self._accept_pending(listener)
        await self._wait_for_transit()
        self._service.runtime.drain()
        await super().shutdown(sockets)

    async def _accept_pending(self, listener: socket.socket) -> None:
        """Close the port and serve the connections that the kernel has accepted; otherwise it would reset them."""
        loop = asyncio.get_running_loop()
        with listener.dup() as rest:
            rest.setblocking(False)
            for server in self.servers:
                server.close()
            await asyncio.sleep(0)
            while True:
                try:
                    accepted, _ = rest.accept()
                except OSError:
                    return
                await loop.connect_accepted_socket(self._connection, accepted)

    async def _wait_for_transit(self) -> None:
        """Wait for requests in transit."""
        await asyncio.sleep(TRANSIT_S)
        for _ in range(TRANSIT_REPEATS):
            if not any(isinstance(one, Connection) and one.fresh for one in self.server_state.connections):
                return
            await asyncio.sleep(TRANSIT_S)

    def _connection(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state, asyncio.get_running_loop())
