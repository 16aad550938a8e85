"""Every error, also unexpected ones, has the format of its dialect; the OpenAPI document agrees."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from app.errors import STATUSES, Problem
from app.main import create_app
from app.settings import Settings

SHAPES: dict[str, tuple[str, set[str]]] = {
    "/v1": ("application/json", {"error.message", "error.type", "error.param", "error.code"}),
    "/v2": ("application/json", {"error"}),
    "/pipeline": ("application/json", {"error", "error_type", "request_id"}),
    "/elsewhere": ("application/problem+json", {"type", "title", "status", "detail", "code", "request_id"}),
}


def members(body: dict[str, Any]) -> set[str]:
    nested = {f"{name}.{inner}" for name, value in body.items() if isinstance(value, dict) for inner in value}
    return nested | {name for name, value in body.items() if not isinstance(value, dict)}


async def raised(prefix: str, errors: Sequence[Exception], root_path: str = "") -> list[httpx.Response]:
    """Return the responses of handlers under this prefix that raise these errors."""
    app = create_app(Settings.model_validate({}))

    async def handler(place: int) -> None:
        raise errors[place]

    app.add_api_route(f"{prefix}/raised/{{place}}", handler)
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return [await client.get(f"{root_path}{prefix}/raised/{place}") for place in range(len(errors))]


@pytest.mark.parametrize("prefix", SHAPES)
@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
def test_every_problem(prefix: str, root_path: str) -> None:
    media_type, expected = SHAPES[prefix]
    problems = [Problem(code, "a sentence", {"Retry-After": "7"}) for code in STATUSES]
    for problem, response in zip(problems, asyncio.run(raised(prefix, problems, root_path)), strict=True):
        assert (response.status_code, response.headers["content-type"]) == (problem.status, media_type)
        assert members(response.json()) == expected
        assert "a sentence" in response.text
        assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize("prefix", SHAPES)
def test_an_unexpected_error(prefix: str) -> None:
    (response,) = asyncio.run(raised(prefix, [RuntimeError("a secret")]))
    media_type, expected = SHAPES[prefix]
    assert (response.status_code, response.headers["content-type"]) == (500, media_type)
    assert members(response.json()) == expected
    assert "secret" not in response.text


@pytest.mark.parametrize("prefix", SHAPES)
def test_a_request_without_a_key(prefix: str) -> None:
    async def get() -> httpx.Response:
        app = create_app(Settings.model_validate({"api_keys": "a-key-of-some-length"}))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(f"{prefix}/anything")

    response, (media_type, expected) = asyncio.run(get()), SHAPES[prefix]
    assert (response.status_code, response.headers["content-type"]) == (401, media_type)
    assert members(response.json()) == expected
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_longer_first_segment_does_not_belong_to_a_dialect() -> None:
    (response,) = asyncio.run(raised("/v10", [Problem("overloaded", "a sentence")]))
    assert response.headers["content-type"] == "application/problem+json"


def test_the_document_names_the_main_endpoints_first(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert list(document["paths"])[:2] == ["/classify", "/embed"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    tags = dict.fromkeys(tag for operation in operations for tag in operation["tags"])
    assert list(tags) == [
        *("images", "heads", "operation", "OpenAI", "Open Inference Protocol", "Hugging Face", "SageMaker"),
    ]


def test_the_document_has_each_dialects_errors(client: httpx.Client) -> None:
    for path, item in client.get("/openapi.json").json()["paths"].items():
        shape = next((shape for prefix, shape in SHAPES.items() if re.match(rf"{prefix}(/|$)", path)), None)
        if shape is None:
            continue
        media_type, expected = shape
        for operation in item.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    (described,) = response["content"].items()
                    assert described[0] == media_type
                    for example in described[1]["examples"].values():
                        # FastAPI omits null values from its document.
                        assert members(example["value"]) == expected - {"error.param"}
