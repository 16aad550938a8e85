"""SageMaker's container API: GET /ping and POST /invocations.

SageMaker does not forward the caller's query string to the container, but it forwards the custom attributes. They carry
the parameters, written as a query string. Errors have the usual format, because SageMaker passes them on unchanged.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

import re
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import ValidationError

from app.api.images.classify import classify
from app.api.images.embed import embed
from app.api.openapi import HEAD_PROBLEMS, image_endpoint
from app.api.operation.health import readyz
from app.api.route import parameters_of, strict_route
from app.errors import Problem
from app.http.problems import invalid, responses
from app.schemas import ClassifyQuery, ClassifyResponse, EmbedQuery, EmbedResponse, Health
from app.service import Service
from app.wording import shown

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
NAMES = {"task", *ClassifyQuery.model_fields, *EmbedQuery.model_fields}
TRACE = re.compile(
    r"(x[-_])?((amzn?|b3)[-_])?((trace|span|request|correlation|session)[-_]?id|traceparent|tracestate)", re.I
)
"""Names of attributes by which a client follows a request; they are passed over."""

router = APIRouter(tags=["SageMaker"], route_class=strict_route(f"parameters are in the header {ATTRIBUTES}"))


@router.get("/ping", summary="Check readiness", responses=responses("loading", "draining", "unhealthy"))
async def ping(request: Request) -> Health:
    """Return 200 while the model is loaded, warmed up and accepts requests, as /readyz does."""
    return await readyz(request)


@router.post(
    "/invocations",
    summary="Classify or embed images, for SageMaker",
    **image_endpoint(
        ClassifyResponse | EmbedResponse, "The float32 array of /classify or /embed.", problems=HEAD_PROBLEMS
    ),
)
async def invocations(
    request: Request,
    attributes: Annotated[
        str,
        Header(
            alias=ATTRIBUTES,
            max_length=1024,  # SageMaker's own limit
            description="A query string: `task=classify` (the default if the model has a classifier) or `task=embed`, "
            "and the parameters of that endpoint. An id alone, and attributes such as `trace_id`, are ignored.",
            examples=["task=embed&size=224&normalize=true"],
        ),
    ] = "",
) -> Response:
    """Return what /classify or /embed returns for the same body and parameters."""
    service: Service = request.app.state.service
    if len(request.headers.getlist(ATTRIBUTES)) > 1:
        raise Problem("invalid_parameter", f"the header {ATTRIBUTES} is given twice")
    parameters = _parameters(attributes)
    classes = "head" in parameters or service.heads.has_classes(service.admit())
    task = parameters.pop("task", "classify" if classes else "embed")
    try:
        if task == "classify":
            return await classify(request, ClassifyQuery.model_validate(parameters))
        if task == "embed":
            return await embed(request, EmbedQuery.model_validate(parameters))
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)[0], "attribute") from error
    raise Problem("invalid_parameter", f"task={shown(task)}: must be 'classify' or 'embed'")


def _parameters(attributes: str) -> dict[str, str]:
    """Return the parameters in the attributes, without the id of a trace. Raises Problem for one that comes twice."""
    if "=" not in attributes and attributes not in NAMES:  # an id alone, as in AWS's own example
        return {}
    return {name: value for name, value in parameters_of(attributes, "attribute").items() if not TRACE.fullmatch(name)}
