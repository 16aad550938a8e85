"""GET /model: what is served, how it was recognised and under which limits."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from app.engine import Engine
from app.problems import responses
from app.service import Service
from app.settings import Settings
from models.checkpoint import Checkpoint

router = APIRouter(tags=["operation"])


@router.get("/model", responses=responses("loading", "draining"))
async def model(request: Request) -> dict[str, Any]:
    """Describe the model."""
    service: Service = request.app.state.service
    return describe(service.engine) | {"limits": _limits(service.settings, service.engine)}


def describe(engine: Engine) -> dict[str, Any]:
    """The checkpoint, and what it runs on."""
    return describe_checkpoint(engine.checkpoint) | {
        "device": str(engine.device),
        "dtype": engine.dtype,
        "fingerprint": engine.fingerprint,
    }


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What was recognised in a checkpoint, and why."""
    content = checkpoint.content
    config, preprocess = content.config, content.preprocess
    return {
        "name": checkpoint.name,
        "source": checkpoint.source,
        "layout": content.layout,
        "profile": content.profile,
        "reasons": dict(content.reasons),
        "parameters": sum(weights.numel() for weights in content.weights.values()),
        "depth": config.depth,
        "width": config.embed_dim,
        "heads": config.num_heads,
        "patch": list(config.patch_size),
        "input_size": list(preprocess.input_size),
        "table_grid": list(config.grid_size),
        "position": asdict(config.position),
        "classes": config.num_classes,
        "labels": list(content.labels.names) if content.labels else None,
        "preprocessing": asdict(preprocess) | {"crop_pct": float(preprocess.crop_pct)},
    }


def _limits(settings: Settings, engine: Engine) -> dict[str, Any]:
    names = (
        *("max_upload_bytes", "max_pixels", "image_formats", "max_images_per_request", "max_tokens_per_image"),
        *("request_timeout_s", "receive_timeout_s"),
    )
    return {name: getattr(settings, name) for name in names} | {"max_batch_tokens": engine.max_batch_cost}
