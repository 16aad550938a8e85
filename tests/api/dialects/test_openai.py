"""OpenAI's official client against a real server process."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.api.dialects.conftest import MODEL, Reference
from tests.api.dialects.problems import BAD_IMAGES, BadImage
from tests.bounds import assert_equal_in_float32
from tests.server import Server, serving


@pytest.fixture
def official(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def vectors(response: openai.types.CreateEmbeddingResponse) -> Any:
    assert [row.index for row in response.data] == list(range(len(response.data)))
    return np.array([row.embedding for row in response.data], np.float32)


def test_vectors_are_those_of_embed_in_both_encodings(official: openai.OpenAI, reference: Reference) -> None:
    by_default = official.embeddings.create(model=MODEL, input=reference.texts, user="ignored", dimensions=384)
    as_floats = official.embeddings.create(model=MODEL, input=reference.texts, encoding_format="float")
    assert_equal_in_float32(vectors(by_default), reference.vectors)
    assert_equal_in_float32(vectors(as_floats), reference.vectors)
    assert (by_default.model, by_default.object) == (MODEL, "list")
    assert by_default.usage.prompt_tokens == by_default.usage.total_tokens == 2 * 65


def test_every_form_of_input(official: openai.OpenAI, reference: Reference) -> None:
    text = reference.texts[0]
    uri = f"data:image/png;base64,{text}"
    forms: list[Any] = [text, uri, [text], [uri], {"image": text}, [{"image": uri}, text]]
    for form in forms:
        answered = vectors(official.embeddings.create(model=MODEL, input=form))
        assert_equal_in_float32(answered, np.repeat(reference.vectors[:1], len(answered), axis=0))


def test_a_request_may_have_the_parameters_of_embed(
    official: openai.OpenAI, client: httpx.Client, reference: Reference, cat: bytes
) -> None:
    query: dict[str, Any] = {"size": "70", "resize": "squash", "pool": "mean", "normalize": True}
    expected = client.post("/embed", params=query, content=cat).json()["results"][0]["embedding"]
    answer = official.embeddings.create(model=MODEL, input=reference.texts[0], extra_body=query)
    assert_equal_in_float32(vectors(answer)[0], expected)
    assert answer.usage.prompt_tokens == 5 * 5 + 1


def test_the_asynchronous_client(server: Server, reference: Reference) -> None:
    async def embed() -> list[openai.types.CreateEmbeddingResponse]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(client.embeddings.create(model=MODEL, input=t) for t in reference.texts))

    answers = asyncio.run(embed())
    assert_equal_in_float32(np.concatenate([vectors(answer) for answer in answers]), reference.vectors)


def test_the_models(official: openai.OpenAI) -> None:
    assert [model.id for model in official.models.list()] == [MODEL]
    assert official.models.retrieve(MODEL).owned_by == "vitrine"
    with pytest.raises(openai.NotFoundError) as refused:
        official.models.retrieve("an/other")
    assert refused.value.code == "model_not_found"


def assert_openai_error(error: openai.APIStatusError, status: int, code: str) -> None:
    assert (error.status_code, error.code) == (status, code)
    assert error.type == ("invalid_request_error" if status < 500 else "server_error")
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert len(error.body["message"]) > 10
    assert error.request_id


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": ({"model": "text-embedding-3-small"}, 404, "model_not_found"),
    "no image": ({"input": []}, 400, "no_image"),
    "too many": ({"input": ["AAAA"] * 65}, 413, "too_many_images"),
    "words": ({"input": "a cat, in words"}, 422, "bad_base64"),
    "a url": ({"input": "http://localhost/a.png"}, 422, "bad_base64"),
    "tokens": ({"input": [1, 2, 3]}, 422, "invalid_parameter"),
    "an unknown item": ({"input": [{"text": "AAAA"}]}, 422, "invalid_parameter"),
    "fewer dimensions": ({"dimensions": 256}, 422, "invalid_parameter"),
    "an unknown encoding": ({"encoding_format": "int8"}, 422, "invalid_parameter"),
    "an unknown member": ({"extra_body": {"top_k": 3}}, 422, "unknown_parameter"),
    "an unknown pool": ({"extra_body": {"pool": "max"}}, 422, "invalid_parameter"),
    "too large a size": ({"extra_body": {"size": "2000"}}, 422, "too_many_tokens"),
}


@pytest.mark.parametrize(("change", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_errors_have_openais_format(
    official: openai.OpenAI, reference: Reference, change: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        official.embeddings.create(**({"model": MODEL, "input": reference.texts[0]} | change))
    assert_openai_error(refused.value, status, code)


@pytest.mark.parametrize("bad", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_one_bad_image_fails_the_request_and_is_named(
    official: openai.OpenAI, reference: Reference, bad: BadImage
) -> None:
    text = base64.b64encode(bad.make()).decode()
    with pytest.raises(openai.APIStatusError) as refused:
        official.embeddings.create(model=MODEL, input=[reference.texts[0], text])
    assert_openai_error(refused.value, bad.status, bad.code)
    assert "image 1" in refused.value.message


def test_malformed_requests(client: httpx.Client) -> None:
    json = {"Content-Type": "application/json"}
    for response, status, code in (
        (client.get("/v1/nothing"), 404, "not_found"),
        (client.get("/v1/embeddings"), 405, "method_not_allowed"),
        (client.post("/v1/embeddings", content=b"{", headers=json), 400, "malformed_body"),
        (client.post("/v1/embeddings", content=b"[]", headers=json), 400, "malformed_body"),
        (client.post("/v1/embeddings", json={}), 422, "invalid_parameter"),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, code)
        assert set(error) == {"message", "type", "param", "code"}


LARGE = {"size": "336"}  # slow enough that the other requests find the queue full


def test_the_client_tries_again_until_the_model_is_loaded_and_the_queue_has_space(
    tmp_path: Path, reference: Reference
) -> None:
    settings = {"max_queue_tokens": 65, "max_upload_bytes": 1_000_000}
    with serving(tmp_path / "log", ready=False, **settings) as server:
        url = f"{server.url}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as without_retries:
            with pytest.raises(openai.InternalServerError) as refused:
                without_retries.models.list()
            assert_openai_error(refused.value, 503, "loading")

        async def embed(max_retries: int) -> list[Any]:
            async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=max_retries) as official:
                create = official.embeddings.with_raw_response.create
                calls = [create(model=MODEL, input=text, extra_body=LARGE) for text in reference.texts * 2]
                return await asyncio.gather(*calls, return_exceptions=True)

        answers = asyncio.run(embed(max_retries=40))
        assert all(answer.retries_taken for answer in answers)
        answered = np.concatenate([vectors(answer.parse()) for answer in answers])
        assert_equal_in_float32(answered, np.tile(answered[:2], (2, 1)))

        overloaded = [error for error in asyncio.run(embed(max_retries=0)) if isinstance(error, openai.APIStatusError)]
        assert overloaded
        for error in overloaded:
            assert_openai_error(error, 503, "overloaded")
            assert int(error.response.headers["retry-after"]) >= 1

        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as without_retries:
            with pytest.raises(openai.APIStatusError) as refused_body:
                without_retries.embeddings.create(model=MODEL, input="A" * 1_000_004)
            assert_openai_error(refused_body.value, 413, "body_too_large")
