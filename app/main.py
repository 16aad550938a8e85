"""`create_app`: the whole service as one ASGI application, complete under any server."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.api.dialects import huggingface, inference_protocol, openai, sagemaker
from app.api.heads import routes as heads
from app.api.images import attention, classify, embed, features, preprocess
from app.api.operation import health, model, page
from app.api.operation import metrics as exposition
from app.http import problems
from app.http.client import Clients
from app.http.headers.compression import Compression
from app.http.headers.origins import Origins, Sharing
from app.http.headers.proxy import Proxied
from app.http.keys import ApiKeys
from app.http.middleware import RequestContext
from app.inference.runtime import Load, load_engine
from app.service import Service
from app.service.teaching import Teaching
from app.settings import Settings, load_settings
from app.telemetry.descriptors import watch_descriptors
from app.telemetry.metrics import Metrics
from app.version import __version__

logger = logging.getLogger("vitrine")

MAX_BODIES_IN_MEMORY = 8
"""How many bodies of the largest size may be in memory at the same time; the limit counts bytes."""

DESCRIPTION = (
    "A trained Vision Transformer behind HTTP: class probabilities, vectors and features, at any resolution.\n\n"
    "[Back to the page](./)"
)

DIALECTS = (openai, inference_protocol, huggingface)
"""Routers that speak another server's protocol, errors included, under a prefix of their own."""


def create_app(settings: Settings | None = None, load: Load = load_engine) -> FastAPI:
    """Return the application.

    Args:
        settings: None reads the VITRINE_* environment variables.
        load: creates the engine; replace it to run the model in another way.

    Raises BadSettings.
    """
    if settings is None:
        settings, warnings = load_settings()
        for warning in warnings:
            logger.warning(warning)
    service = Service(settings, load)
    teaching = Teaching(service)
    app = _fastapi(settings, service, teaching)
    # Not as an argument, which is deprecated: uvicorn and others set it themselves.
    app.root_path = settings.root_path.rstrip("/")
    app.state.service = service
    app.state.teaching = teaching
    problems.install(app, {dialect.router.prefix: dialect.ERROR_FORMAT for dialect in DIALECTS})
    _wrap(app, settings, service.metrics)
    images = (classify, embed, attention, features, preprocess)
    for endpoint in (*images, heads, model, health, exposition, *DIALECTS, sagemaker):
        app.include_router(endpoint.router)

    page.install(app, docs=settings.docs)
    return app


def _wrap(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add the middleware; the one that is added last sees a request first."""
    app.add_middleware(Clients, keyed=bool(settings.keys))
    if settings.keys or settings.admins:
        app.add_middleware(ApiKeys, keys=settings.keys, admins=settings.admins)
    app.add_middleware(Compression)
    origins = Origins(settings.cors_origins)
    app.add_middleware(Sharing, origins=origins)
    app.add_middleware(Proxied, trusted=settings.trusted_proxies)
    app.add_middleware(
        RequestContext,
        metrics=metrics,
        max_body_bytes=MAX_BODIES_IN_MEMORY * settings.max_upload_bytes,
        origins=origins,
    )


def _fastapi(settings: Settings, service: Service, teaching: Teaching) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(lambda: _report(service))
        descriptors = asyncio.create_task(watch_descriptors())
        yield
        descriptors.cancel()
        teaching.close()
        await service.stop()

    facts: dict[str, Any] = {
        "title": "Vitrine",
        "version": __version__,
        "description": DESCRIPTION,
    }
    if settings.docs:
        # Swagger UI's files are served from here, so that /docs works without a network.
        return FastAPIOffline(redoc_url=None, lifespan=lifespan, **facts)
    return FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, **facts)


def _report(service: Service) -> None:
    """Log what is served; end the process if the model could not be loaded or was lost."""
    runtime = service.runtime
    if runtime.failure is None:
        # What exists now stays to the end. A search of it for garbage, every thousand requests or so, would delay all
        # requests by some tenths of a second.
        gc.freeze()
        gc.enable()  # `vitrine serve` starts without it
        engine = runtime.engine
        service.metrics.model.loaded(
            model=engine.checkpoint.name,
            fingerprint=engine.fingerprint,
            device=str(engine.device),
            dtype=engine.dtype,
            version=__version__,
        )
        logger.info(
            "serving %s (%s) on %s in %s; threads: %d for up to %d forward passes at once, %d for decoding",
            *(engine.checkpoint.name, engine.fingerprint, engine.device, engine.dtype),
            *(engine.backend.threads, engine.streams, service.decoder.threads),
        )
        return
    if runtime.finished_loading.is_set():
        logger.critical("the model failed: %s", runtime.failure)
    else:
        logger.critical("the model could not be loaded: %s", runtime.failure)
    signal.raise_signal(signal.SIGTERM)
