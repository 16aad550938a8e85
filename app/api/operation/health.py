"""GET /healthz and /readyz: for whoever runs the service."""

from fastapi import APIRouter, Request

from app.errors import Problem
from app.http.problems import responses
from app.schemas import Health
from app.service.service import Service

router = APIRouter(tags=["operation"])


@router.get("/healthz", responses=responses("unhealthy"))
async def healthz(request: Request) -> Health:
    """Whether the process is alive and the thread that runs the model moves; also while the model is being loaded."""
    service: Service = request.app.state.service
    if not service.runtime.alive:
        raise Problem("unhealthy", "the thread that runs the model has ended or is stuck")
    return Health(status="ok")


@router.get("/readyz", responses=responses("loading", "draining", "unhealthy"))
async def readyz(request: Request) -> Health:
    """Whether the model is loaded, warmed up, answers, and takes requests."""
    service: Service = request.app.state.service
    await service.runtime.check_ready()
    return Health(status="ok")
