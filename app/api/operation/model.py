"""GET /model: describe the model that is served, how its format was recognised, and the limits on requests."""

from typing import Any

from fastapi import APIRouter, Request

from app.api.route import StrictRoute
from app.http.problems import responses
from app.service import Engine, Service
from app.settings import Settings
from models.checkpoints.describe import describe as describe_checkpoint

router = APIRouter(tags=["operation"], route_class=StrictRoute)


@router.get("/model", summary="Describe the model", responses=responses("loading", "draining"))
async def model(request: Request) -> dict[str, Any]:
    """Return the model's architecture, labels and preprocessing, the device it runs on, and the limits on requests."""
    service: Service = request.app.state.service
    threads = {"forward": service.engine.backend.threads, "decode": service.decoder.threads}
    return describe(service.engine) | {"threads": threads, "limits": _limits(service.settings, service.engine)}


def describe(engine: Engine) -> dict[str, Any]:
    """Return the checkpoint's description, and the device and dtype that run it."""
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
