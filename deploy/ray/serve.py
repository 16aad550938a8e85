"""Run the service on Ray Serve: `serve run deploy.ray.serve:app`, or `serve deploy` with `production.yaml`.

Settings come from VITRINE_* variables; the application's `args` take precedence. A replica is one process with one
model and its own queue, as without Ray. Serve does what comes before it: routing, autoscaling, health checks, shutdown.
"""

import asyncio
from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.main import create_app
from app.service import Service
from app.settings import Settings, load_settings
from app.telemetry import logs


def app(args: dict[str, Any]) -> serve.Application:
    """Return the application with these settings. Raises BadSettings before anything is started."""
    settings, _ = load_settings(**args)
    return deployment.bind(settings)


@serve.ingress()
class Replica:
    """One process of the service."""

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.log_level, settings.log_format)
        self._app = create_app(settings)
        self._app.add_middleware(ClientDisconnects)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app that Serve sends requests to. Its lifespan loads the model, and ends with the replica."""
        return self._app

    async def check_health(self) -> None:
        """Check that this process can answer. Serve calls it before the first request, then every few seconds.

        Waits until the model is loaded. Raises the error that prevented loading, or Problem when the service can no
        longer answer: Serve then replaces the process.
        """
        service: Service = self._app.state.service
        await service.runtime.finished_loading.wait()
        if service.runtime.failure is not None:
            raise service.runtime.failure
        await service.runtime.check_ready()


deployment: serve.Deployment = serve.deployment(
    name="vitrine",
    # Accepted requests wait in the batcher's queue, which knows their deadlines, and not in Serve.
    max_ongoing_requests=256,
    max_queued_requests=256,
    # Longer than request_timeout_s, so that every accepted request is answered.
    graceful_shutdown_timeout_s=40,
    graceful_shutdown_wait_loop_s=0.5,
    health_check_period_s=5,
    health_check_timeout_s=15,
)(Replica)


class ClientDisconnects:
    """Tells the service that a client has disconnected.

    When a client disconnects, Serve cancels the call. An ASGI server sends `http.disconnect` instead, and the service
    then removes the request's work from its queue and counts the disconnect. This middleware translates the
    cancellation into that message, and waits until the service has handled it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything else (lifespan) passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        disconnected = asyncio.Event()

        async def receive_or_disconnect() -> Message:
            message, disconnect = asyncio.ensure_future(receive()), asyncio.ensure_future(disconnected.wait())
            try:
                await asyncio.wait([message, disconnect], return_when=asyncio.FIRST_COMPLETED)
                return {"type": "http.disconnect"} if disconnected.is_set() else message.result()
            finally:
                message.cancel()
                disconnect.cancel()

        answering = asyncio.ensure_future(self._app(scope, receive_or_disconnect, send))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            disconnected.set()
            await asyncio.wait([answering])
            raise
