"""GET /metrics: metrics for Prometheus."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from app.api.route import StrictRoute
from app.service import Service

router = APIRouter(tags=["operation"], route_class=StrictRoute)


@router.get(
    "/metrics",
    summary="Read metrics, for Prometheus",
    response_class=Response,
    responses={200: {"description": "Metrics in Prometheus' text format.", "content": {"text/plain": {}}}},
)
def metrics(request: Request) -> Response:
    """Return the metrics since the process started. docs/operations.md explains each of them."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
