"""Outcomes of the images of a request -> the response: JSON with each image's own result, or one .npy."""

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import orjson
from fastapi import Request, Response

from app.api.uploads import check_count
from app.errors import ImageProblem, Problem
from app.http.problems import PROBLEM_JSON, problem_response
from app.inference.engine import Engine
from app.inference.task import Task
from app.pictures.prepared import PreparedImage, Resolution, Upload
from app.service.outcome import ImageAnswer
from app.service.service import Service

NPY = "application/x-npy"
PNG = "image/png"
JSON = "application/json"

Outcomes = Sequence[ImageAnswer | ImageProblem]


def wants(request: Request, media_type: str) -> bool:
    """Whether the client asks for this very type."""
    ranges = request.headers.get("accept", "").lower().split(",")
    return any(media_range.split(";")[0].strip() == media_type for media_range in ranges)


def wants_npy(request: Request) -> bool:
    """Whether the client asks for an array; any other `Accept` gets JSON."""
    return wants(request, NPY)


def json_results(
    request: Request, outcomes: Outcomes, head: dict[str, Any], result: Callable[[ImageAnswer], dict[str, Any]]
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
    return Response(body, media_type=JSON)


def npy_results(outcomes: Outcomes) -> Response:
    """All answers as one float32 array (n, ...). Raises the problem of the first image that has one.

    Raises Problem for answers on unequal grids of patches.
    """
    rows = [np.asarray(outcome.answer) for outcome in all_answered(outcomes)]
    grids = list(dict.fromkeys(row.shape[:2] for row in rows))
    if len(grids) > 1:
        (h, w), (other_h, other_w) = grids[:2]
        detail = f"images have grids of {h}x{w} and {other_h}x{other_w} patches, which make no one array"
        raise Problem("unequal_grids", f"{detail}; resize=crop and resize=squash give all images one size")
    file = io.BytesIO()
    np.save(file, np.stack(rows).astype(np.float32, copy=False), allow_pickle=False)
    return Response(file.getvalue(), media_type=NPY)


async def answer_all(
    request: Request, engine: Engine, uploads: Sequence[Upload | PreparedImage], resolution: Resolution, task: Task
) -> list[ImageAnswer]:
    """The answers to all images. Raises Problem: these shapes have no place for a problem of one image."""
    service: Service = request.app.state.service
    if not uploads:
        raise Problem("no_image", "the request has no image")
    check_count(len(uploads), service.settings)
    return all_answered(await service.answer(engine, uploads, resolution, task, request.state.timings))


def all_answered(outcomes: Outcomes) -> list[ImageAnswer]:
    """Raises the problem of the first image that has one."""
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageProblem):
            raise Problem(outcome.code, f"image {index}: {outcome.detail}")
    return cast(list[ImageAnswer], outcomes)


def float32_base64(vector: Any) -> str:
    """A vector in few characters: its float32 values, little-endian."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def with_fingerprint(response: Response, engine: Engine, resolution: Resolution, task: Task) -> Response:
    """Name what decided the numbers of this answer in one word: equal words mean comparable vectors."""
    size = engine.network_size(resolution.size)
    # Written out: clients store the digest, and the name of a class or of its fields must not change it.
    resize = resolution.resize or "own"
    parts = f"{engine.fingerprint!r}, {size}, {resize!r}, {task.readout.name!r}, {task.normalize}"
    if (spec := task.attention_spec) is not None:
        parts += f", Look(layer={spec.layer}, head={spec.head}, rollout={spec.rollout})"
    response.headers["Vitrine-Fingerprint"] = _digest(f"({parts})")
    return response


@lru_cache(256)
def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def png_result(png: bytes, outcome: ImageAnswer, **numbers: dict[str, Any]) -> Response:
    """A picture as the response, what there is to say of it in headers; `numbers` besides what JSON always says."""
    said = {**_described(outcome), **numbers}
    headers = {f"Vitrine-{name.capitalize()}": _dictionary(members) for name, members in said.items()}
    return Response(png, media_type=PNG, headers=headers)


def single(uploads: Sequence[Upload], instead: str) -> None:
    """Raises Problem for more than one image, where the answer is one picture."""
    if len(uploads) > 1:
        raise Problem("too_many_images", f"a PNG answers one image, and there are {len(uploads)}; ask for {instead}")


def answered(outcome: ImageAnswer | ImageProblem) -> ImageAnswer:
    """The answer. Raises the image's problem."""
    if isinstance(outcome, ImageProblem):
        raise outcome
    return outcome


def _dictionary(members: dict[str, Any]) -> str:
    """A structured field (RFC 9651)."""
    written = {name: f"?{value:d}" if isinstance(value, bool) else value for name, value in members.items()}
    return ", ".join(f"{name.replace('_', '-')}={value}" for name, value in written.items())


def _described(outcome: ImageAnswer) -> dict[str, Any]:
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
