"""`create_app`: the whole service as one ASGI application, complete under any server."""

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.responses import RedirectResponse, Response

from app import __version__, problems
from app.api import classify, embed, health, metrics, model
from app.middleware import RequestContext
from app.service import Service
from app.settings import Settings, load_settings

logger = logging.getLogger("vitrine")

DESCRIPTION = "A trained Vision Transformer behind HTTP: class probabilities and vectors, at any resolution."


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service. Without settings it reads the environment; raises BadSettings."""
    if settings is None:
        settings, warnings = load_settings()
        for warning in warnings:
            logger.warning(warning)
    service = Service(settings)
    app = _fastapi(settings, service)
    app.state.service = service
    problems.install(app)
    app.add_middleware(RequestContext, metrics=service.metrics)
    for room in (classify, embed, model, health, metrics):
        app.include_router(room.router)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(f"{settings.root_path}/docs" if settings.docs else f"{settings.root_path}/model")

    return app


def _fastapi(settings: Settings, service: Service) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(_report)
        yield
        await service.stop()

    facts: dict[str, Any] = {
        "title": "Vitrine",
        "version": __version__,
        "description": DESCRIPTION,
        "root_path": settings.root_path,
    }
    if settings.docs:
        # Swagger UI's files come from us: uploading from /docs works without a network.
        return FastAPIOffline(redoc_url=None, lifespan=lifespan, **facts)
    return FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, **facts)


def _report(service: Service) -> None:
    """Say what is served; a model that could not be loaded ends the process."""
    if service.failure is None:
        engine = service.engine
        service.metrics.model.loaded(
            model=engine.checkpoint.name,
            fingerprint=engine.fingerprint,
            device=str(engine.device),
            dtype=engine.dtype,
            version=__version__,
        )
        logger.info(
            "serving %s (%s) on %s in %s", engine.checkpoint.name, engine.fingerprint, engine.device, engine.dtype
        )
        return
    logger.critical("the model could not be loaded: %s", service.failure)
    signal.raise_signal(signal.SIGTERM)
