"""GET /model: describe the model that is served, how its format was recognised, and the limits on requests."""

from typing import Any

from fastapi import APIRouter, Request

from app.api.route import StrictRoute
from app.heads.describe import head_facts
from app.heads.head import Head
from app.http.problems import responses
from app.service import Engine, Service
from models.checkpoints.describe import describe as describe_checkpoint
from models.files.location import local_path, names_repository

router = APIRouter(tags=["operation"], route_class=StrictRoute)


@router.get(
    "/model", summary="Describe the model and the limits of requests", responses=responses("loading", "draining")
)
async def model(request: Request) -> dict[str, Any]:
    """Return the model's architecture, labels and preprocessing, the device it runs on, and the limits on requests."""
    service: Service = request.app.state.service
    threads = {"forward": service.engine.backend.threads, "decode": service.decoder.threads}
    described = describe(service.engine, service.heads.served) | {"streams": service.engine.streams}
    return described | {"threads": threads, "fitted_heads": await _fitted_heads(service), "limits": _limits(service)}


def describe(engine: Engine, head: Head | None = None) -> dict[str, Any]:
    """Return the checkpoint's description without its place on this machine, the device, dtype and colours.

    `head` is a fitted head that classifies in the place of the checkpoint's own.
    """
    described = describe_checkpoint(engine.checkpoint)
    if head is not None:
        described |= head_facts(head, described["reasons"])
    return described | {
        "source": public_source(described["source"]),
        "device": str(engine.device),
        "dtype": engine.dtype,
        "int8": _int8(engine),
        "colour": engine.colour,
        "fingerprint": engine.fingerprint,
    }


def _int8(engine: Engine) -> dict[str, Any] | None:
    """Return how a network of int8 runs here; None for another."""
    if engine.dtype != "int8":
        return None
    return {"attention": engine.backend.inside, "faster": engine.backend.int8_is_faster}


def public_source(source: str) -> str:
    """Return a repository of the hub as it is, and of a local path, however it is written, only its last part."""
    path = local_path(source)
    if path is None or (names_repository(source) and not path.exists()):
        return source
    return path.absolute().name


async def _fitted_heads(service: Service) -> dict[str, Any]:
    """Return where heads are kept, which decides whether they outlive the process, and their names."""
    kept = "memory" if service.settings.heads is None else "directory"
    return {"kept": kept, "names": sorted(await service.heads.kept())}


def _limits(service: Service) -> dict[str, Any]:
    names = (
        *("max_upload_bytes", "max_pixels", "max_images_per_request", "max_tokens_per_image"),
        *("request_timeout_s", "receive_timeout_s"),
        *("max_heads", "max_head_classes", "max_head_examples", "max_heads_bytes"),
    )
    limits = {name: getattr(service.settings, name) for name in names}
    return limits | {"image_formats": service.decoder.formats, "max_batch_tokens": service.engine.max_batch_cost}
