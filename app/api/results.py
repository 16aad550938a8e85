"""Outcomes of the images of a request -> the response: JSON with each image's own result, or one .npy."""

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import orjson
from fastapi import Request, Response

from app.engine import Engine
from app.errors import ImageProblem, Problem
from app.problems import PROBLEM_JSON, problem_response
from app.service import Answered, Prepared, Service, View, Want
from app.uploads import Upload, check_count
from models.preprocess import whole_patches

NPY = "application/x-npy"

Outcomes = Sequence[Answered | ImageProblem]


def wants_npy(request: Request) -> bool:
    """Whether the client asks for an array; any other `Accept` gets JSON."""
    ranges = request.headers.get("accept", "").lower().split(",")
    return any(media_range.split(";")[0].strip() == NPY for media_range in ranges)


def json_results(
    request: Request, outcomes: Outcomes, head: dict[str, Any], result: Callable[[Answered], dict[str, Any]]
) -> Response:
    """`head`, then for each image its result or its problem; a problem response where no image was answered."""
    request_id: str = request.state.request_id
    problems = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, ImageProblem)]
    if len(problems) == len(outcomes):
        errors = [{"index": index, **problem.body(request_id)} for index, problem in problems]
        members = {"errors": errors} if len(errors) > 1 else {}
        return problem_response(problems[0][1], request_id, PROBLEM_JSON, **members)
    results = [
        {"error": outcome.body(request_id)}
        if isinstance(outcome, ImageProblem)
        else {**result(outcome), **_described(outcome)}
        for outcome in outcomes
    ]
    body = orjson.dumps({**head, "failed": len(problems), "results": results}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


def npy_results(outcomes: Outcomes) -> Response:
    """All answers as one float32 array (n, ...). Raises the problem of the first image that has one."""
    rows = [outcome.answer for outcome in all_answered(outcomes)]
    file = io.BytesIO()
    np.save(file, np.asarray(rows, np.float32), allow_pickle=False)
    return Response(file.getvalue(), media_type=NPY)


async def answer_all(
    request: Request, engine: Engine, uploads: Sequence[Upload | Prepared], view: View, want: Want
) -> list[Answered]:
    """The answers to all images. Raises Problem: these shapes have no place for a problem of one image."""
    service: Service = request.app.state.service
    if not uploads:
        raise Problem("no_image", "the request has no image")
    check_count(len(uploads), service.settings)
    return all_answered(await service.answer(engine, uploads, view, want, request.state.timings))


def all_answered(outcomes: Outcomes) -> list[Answered]:
    """Raises the problem of the first image that has one."""
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageProblem):
            raise Problem(outcome.code, f"image {index}: {outcome.detail}")
    return cast(list[Answered], outcomes)


def float32_base64(vector: Any) -> str:
    """A vector in few characters: its float32 values, little-endian."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def with_fingerprint(response: Response, engine: Engine, view: View, want: Want) -> Response:
    """Name what decided the numbers of this answer in one word: equal words mean comparable vectors."""
    size = whole_patches(view.size or engine.checkpoint.content.preprocess.input_size, engine.config.patch_size)
    parts = (engine.fingerprint, size, view.resize or "own", want.readout.name, want.normalize)
    response.headers["Vitrine-Fingerprint"] = hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()
    return response


def _described(outcome: Answered) -> dict[str, Any]:
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
