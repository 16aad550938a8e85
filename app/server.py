"""What only a server can do: bind before anything slow begins, run uvicorn, drain when told to stop."""

import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.service import Service
from app.settings import Settings

logger = logging.getLogger("vitrine")


def bind(settings: Settings) -> socket.socket:
    """Take the port. Raises OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(2048)
    return listener


def run(app: FastAPI, settings: Settings, listener: socket.socket) -> bool:
    """Serve until told to stop; whether the model could be loaded."""
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # the middleware writes one line for each request
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )
    _Server(config, service).run([listener])
    return service.runtime.failure is None


class _Server(uvicorn.Server):
    """uvicorn, which tells the service at once when it has to stop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM or SIGINT: `/readyz` says so before anything else."""
        self._service.runtime.drain()
        super().handle_exit(sig, frame)
