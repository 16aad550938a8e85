"""GET /model: what is served, how it was recognised and under which limits."""

from typing import Any

from fastapi import APIRouter, Request

from app.http.problems import responses
from app.inference.engine import Engine
from app.service.service import Service
from app.settings import Settings
from models.checkpoints.describe import describe as describe_checkpoint

router = APIRouter(tags=["operation"])


@router.get("/model", responses=responses("loading", "draining"))
async def model(request: Request) -> dict[str, Any]:
    """Describe the model."""
    service: Service = request.app.state.service
    threads = {"forward": service.engine.backend.threads, "decode": service.decoder.threads}
    return describe(service.engine) | {"threads": threads, "limits": _limits(service.settings, service.engine)}


def describe(engine: Engine) -> dict[str, Any]:
    """The checkpoint, and what it runs on."""
    return describe_checkpoint(engine.checkpoint) | {
        "device": str(engine.device),
        "dtype": engine.dtype,
        "fingerprint": engine.fingerprint,
    }


def _limits(settings: Settings, engine: Engine) -> dict[str, Any]:
    names = (
        *("max_upload_bytes", "max_pixels", "image_formats", "max_images_per_request", "max_tokens_per_image"),
        *("request_timeout_s", "receive_timeout_s"),
    )
    return {name: getattr(settings, name) for name in names} | {"max_batch_tokens": engine.max_batch_cost}
