"""The same app as a Ray Serve deployment: `serve run deploy.ray.serve:app`, or `serve deploy` with `production.yaml`.

Settings come from VITRINE_* variables and, over them, from the application's `args`. A replica is one process with one
model behind its own queue, as everywhere; Serve does what lies before it: routing, replicas, their health, their end.
"""

import asyncio
from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.main import create_app
from app.service.service import Service
from app.settings import Settings, load_settings
from app.telemetry import logs


def app(args: dict[str, Any]) -> serve.Application:
    """The application of these settings. Raises BadSettings before anything is started."""
    settings, _ = load_settings(**args)
    return deployment.bind(settings)


@serve.ingress()
class Process:
    """One process of the service."""

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.log_level, settings.log_format)
        self._app = create_app(settings)
        self._app.add_middleware(ClientDisconnects)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve hands requests to; its lifespan starts loading the model, and ends with the replica."""
        return self._app

    async def check_health(self) -> None:
        """Whether this process can answer; asked before the first request, and then every few seconds.

        Waits for the model. Raises what kept it from being loaded, and Problem once answers are not to be had: Serve
        then replaces the process.
        """
        service: Service = self._app.state.service
        await service.runtime.finished_loading.wait()
        if service.runtime.failure is not None:
            raise service.runtime.failure
        await service.runtime.check_ready()


deployment: serve.Deployment = serve.deployment(
    name="vitrine",
    # Beside its queue: what is taken from here on waits in the batcher, which knows its deadline, and not in Serve.
    max_ongoing_requests=256,
    max_queued_requests=256,
    # Longer than a request may take: one that was taken is answered.
    graceful_shutdown_timeout_s=40,
    graceful_shutdown_wait_loop_s=0.5,
    health_check_period_s=5,
    health_check_timeout_s=15,
)(Process)


class ClientDisconnects:
    """Tells the service that a client has left.

    Serve cancels the call; an ASGI server says `http.disconnect`, upon which the service withdraws the work from its
    queue and notes who left. So a cancelled call is told as such a message, and waited for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything else (lifespan) passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gone = asyncio.Event()

        async def receive_or_gone() -> Message:
            message, departure = asyncio.ensure_future(receive()), asyncio.ensure_future(gone.wait())
            try:
                await asyncio.wait([message, departure], return_when=asyncio.FIRST_COMPLETED)
                return {"type": "http.disconnect"} if gone.is_set() else message.result()
            finally:
                message.cancel()
                departure.cancel()

        answering = asyncio.ensure_future(self._app(scope, receive_or_gone, send))
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            gone.set()
            await asyncio.wait([answering])
            raise
