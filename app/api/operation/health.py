"""GET /healthz and /readyz: liveness and readiness probes."""

from fastapi import APIRouter, Request

from app.api.route import StrictRoute
from app.errors import Problem
from app.http.problems import responses
from app.schemas import Health
from app.service import Service

router = APIRouter(tags=["operation"], route_class=StrictRoute)


@router.get(
    "/healthz", summary="Check liveness: whether the process has to be restarted", responses=responses("unhealthy")
)
async def healthz(request: Request) -> Health:
    """Return 200 while the process is alive and its model thread makes progress, also while the model is loading."""
    service: Service = request.app.state.service
    if not service.runtime.alive:
        raise Problem("unhealthy", "the thread that runs the model has ended or is stuck")
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Check readiness: whether it takes requests",
    responses=responses("loading", "draining", "unhealthy"),
)
async def readyz(request: Request) -> Health:
    """Return 200 while the model is loaded, warmed up, responsive and accepts requests."""
    service: Service = request.app.state.service
    await service.runtime.check_ready()
    return Health(status="ok")
