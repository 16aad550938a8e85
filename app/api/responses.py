"""Build the response of a request: JSON with one result per image, one .npy array, or one PNG."""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import orjson
from fastapi import Request, Response
from numpy.typing import NDArray

from app.errors import ImageProblem, Problem
from app.http.headers.quality import preferred
from app.http.problems import PROBLEM_JSON, problem_response
from app.service import Engine, ImageAnswer, Resolution

NPY = "application/x-npy"
PNG = "image/png"
JSON = "application/json"

Outcomes = Sequence[ImageAnswer | ImageProblem]
"""For each image of a request, in order: its answer, or the problem that prevents one."""


def negotiate(request: Request, *offers: str) -> str:
    """Return the media type that the header Accept prefers of those that can be given, the default first.

    Raises Problem if it takes none of them.
    """
    chosen = preferred(", ".join(request.headers.getlist("accept")), offers)
    if chosen is None:
        raise Problem("not_acceptable", f"the header Accept takes nothing that can be given here: {', '.join(offers)}")
    return chosen


def json_response(
    request: Request, outcomes: Outcomes, head: dict[str, Any], result: Callable[[ImageAnswer], dict[str, Any]]
) -> Response:
    """Return `head` and, for each image, its result or its problem.

    `result` makes the members of a result that are specific to the endpoint. If every image failed, return the first
    image's problem instead.
    """
    request_id: str = request.state.request_id
    problems = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, ImageProblem)]
    if len(problems) == len(outcomes):
        errors = [{"index": index, **problem.body(request_id)} for index, problem in problems]
        members = {"errors": errors} if len(errors) > 1 else {}
        return problem_response(problems[0][1], request_id, PROBLEM_JSON, **members)
    results = [
        {"error": outcome.body(request_id)}
        if isinstance(outcome, ImageProblem)
        else {**result(outcome), **_image_members(outcome)}
        for outcome in outcomes
    ]
    body = orjson.dumps({**head, "failed": len(problems), "results": results}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type=JSON)


def npy_response(outcomes: Outcomes) -> Response:
    """Return all answers as one float32 array (n, ...).

    Raises Problem for the first image that failed, and for answers whose patch grids differ.
    """
    answers = all_answers(outcomes)
    return array_response([np.asarray(outcome.answer) for outcome in answers], [answer.grid for answer in answers])


def array_response(rows: Sequence[NDArray[Any]], grids: Sequence[tuple[int, int]]) -> Response:
    """Return the rows of all images as one float32 array (n, ...).

    Args:
        rows: one array per image.
        grids: the patch grid of each image.

    Raises Problem for rows that differ in shape, because the grids of their images do.
    """
    if len({row.shape for row in rows}) > 1:
        (h, w), (other_h, other_w) = list(dict.fromkeys(grids))[:2]
        detail = f"the images have patch grids of {h}x{w} and {other_h}x{other_w}, which do not fit into one array"
        raise Problem("unequal_grids", f"{detail}; resize=crop and resize=squash give all images the same size")
    file = io.BytesIO()
    np.save(file, np.stack(rows).astype(np.float32, copy=False), allow_pickle=False)
    return Response(file.getvalue(), media_type=NPY)


def png_response(png: bytes, outcome: ImageAnswer, **members: dict[str, Any]) -> Response:
    """Return a PNG. What JSON would say about the image, and `members`, go into Vitrine-* headers."""
    members = {**_image_members(outcome), **members}
    headers = {f"Vitrine-{name.capitalize()}": _structured_field(value) for name, value in members.items()}
    return Response(png, media_type=PNG, headers=headers)


MAX_PATCHES_BYTES = 2**28
"""Limit on the patch tokens of one response. It is by far the largest kind, and all of it is in memory at once."""


def check_patches_bytes(engine: Engine, resolution: Resolution, images: int, layers: int = 1) -> None:
    """Raise Problem if the patch tokens of all images, in so many layers, would exceed the limit of one response."""
    tokens = engine.config.num_tokens(*engine.network_size(*resolution)) * layers
    total = images * tokens * engine.config.embed_dim * 4
    if total > MAX_PATCHES_BYTES:
        detail = f"the patch tokens of {images} images of {tokens} tokens need {total} bytes"
        raise Problem("too_many_tokens", f"{detail}; one response may have {MAX_PATCHES_BYTES}")


def check_single(images: int) -> None:
    """Raise Problem for more than one image, because a PNG shows only one."""
    if images > 1:
        detail = f"a PNG response needs a request with one image, and this one has {images}"
        raise Problem("too_many_images", f"{detail}; use output=json")


def answer_of(outcome: ImageAnswer | ImageProblem) -> ImageAnswer:
    """Return the answer. Raises ImageProblem if the image failed."""
    if isinstance(outcome, ImageProblem):
        raise outcome
    return outcome


def all_answers(outcomes: Outcomes) -> list[ImageAnswer]:
    """Return all answers. Raises Problem, which names the image, if one failed."""
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageProblem):
            raise Problem(outcome.code, f"image {index}: {outcome.detail}")
    return cast(list[ImageAnswer], outcomes)


def float32_base64(vector: Any) -> str:
    """Return the vector's little-endian float32 values as base64."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _image_members(outcome: ImageAnswer) -> dict[str, Any]:
    """Describe the image, before and after preprocessing."""
    height, width = outcome.image.plan.size
    return {
        "image": {"width": outcome.image.width, "height": outcome.image.height, "format": outcome.image.format},
        "network": {
            "width": width,
            "height": height,
            "resize": outcome.image.plan.resize,
            "tokens": outcome.tokens,
            "interpolated": outcome.interpolated,
        },
    }


def _structured_field(members: dict[str, Any]) -> str:
    """Format a dictionary for a header, as a structured field (RFC 9651)."""
    values = {name: f"?{value:d}" if isinstance(value, bool) else value for name, value in members.items()}
    return ", ".join(f"{name.replace('_', '-')}={value}" for name, value in values.items())
