"""SageMaker's dialect: GET /ping and POST /invocations, what it asks of a container.

A caller's query does not come through to the container, custom attributes do: they carry the parameters, written as a
query. Errors are the usual ones: SageMaker hands them on as they are.
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Header, Request, Response
from pydantic import ValidationError

from app.api.images.classify import classify
from app.api.images.embed import embed
from app.api.openapi import image_endpoint
from app.api.operation.health import readyz
from app.errors import Problem
from app.http.problems import invalid, responses
from app.schemas import ClassifyQuery, ClassifyResponse, EmbedQuery, EmbedResponse, Health
from app.service.service import Service
from models.network.vit import Readout

router = APIRouter(tags=["SageMaker"])

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


@router.get("/ping", responses=responses("loading", "draining"))
async def ping(request: Request) -> Health:
    """Whether the model is loaded, warmed up and takes requests."""
    return await readyz(request)


@router.post("/invocations", **image_endpoint(ClassifyResponse | EmbedResponse, "what the task answers, in float32"))
async def invocations(
    request: Request,
    attributes: Annotated[
        str,
        Header(
            alias=ATTRIBUTES,
            max_length=1024,  # SageMaker's own bound
            description="`task=classify` (the default where the model has a classifier) or `task=embed`, and the "
            "parameters of that endpoint.",
            examples=["task=embed&size=224&normalize=true"],
        ),
    ] = "",
) -> Response:
    """Classify or embed images: what /classify or /embed answers to the same body and parameters."""
    service: Service = request.app.state.service
    parameters = dict(parse_qsl(attributes, keep_blank_values=True))
    task = parameters.pop("task", "classify" if Readout.LOGITS in service.admit().readouts else "embed")
    try:
        if task == "classify":
            return await classify(request, ClassifyQuery.model_validate(parameters))
        if task == "embed":
            return await embed(request, EmbedQuery.model_validate(parameters))
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)[0], "attribute") from error
    raise Problem("invalid_parameter", f"task={task[:100]!r}: must be 'classify' or 'embed'")
