"""OpenAI's official client against a real server process."""

import asyncio
import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
    part: Any = {"type": "image_url", "image_url": {"url": uri}}
    forms: list[Any] = [text, uri, [text], [uri], {"image": text}, [{"image": uri}, text]]
    forms += [part, [part, text], {"type": "image_url", "image_url": uri}, {"type": "input_image", "image_url": uri}]
    forms += [{"type": "image_url", "image_url": {"url": text, "detail": "high"}}, {"image_url": {"url": uri}}]
    for form in forms:
        answered = vectors(official.embeddings.create(model=MODEL, input=form))
        assert_equal_in_float32(answered, np.repeat(reference.vectors[:1], len(answered), axis=0))


def in_lines(text: str) -> str:
    return "\r\n".join(text[start : start + 76] for start in range(0, len(text), 76))


ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "lines": lambda file: in_lines(base64.b64encode(file).decode()),
    "a last line break": lambda file: base64.b64encode(file).decode() + "\n",
    "no padding": lambda file: base64.b64encode(file).decode().rstrip("="),
    "for URLs": lambda file: base64.urlsafe_b64encode(file).decode(),
    "for URLs, without padding": lambda file: base64.urlsafe_b64encode(file).decode().rstrip("="),
    "lines of a data: URI": lambda file: "data:image/png;base64," + in_lines(base64.b64encode(file).decode()),
    "a data: URI with escapes": lambda file: "data:image/png;base64," + quote(base64.b64encode(file), safe=""),
    "a data: URI with a name": lambda file: "data:image/png;name=a.png;base64," + base64.b64encode(file).decode(),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS.keys())
def test_base64_is_read_as_programs_write_it(
    official: openai.OpenAI, client: httpx.Client, reference: Reference, cat: bytes, encode: Callable[[bytes], str]
) -> None:
    for file in (cat, cat + b"\0", cat + b"\0\0"):  # each length of padding; a PNG ends before
        answered = vectors(official.embeddings.create(model=MODEL, input=encode(file)))
        assert_equal_in_float32(answered, reference.vectors[:1])
        assert client.post("/classify", json={"images": [encode(file)]}).status_code == 200


@pytest.mark.parametrize("text", ["AA AA=A", "A", "AAAAA", "AA==AA", "äöü", "AA%3D", "data:image/png,AAAA", "."])
def test_what_is_no_base64_is_refused(client: httpx.Client, text: str) -> None:
    response = client.post("/classify", json={"images": [text]})
    assert (response.status_code, response.json()["code"]) == (422, "bad_base64")


def chat(*content: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": list(content)}]}


def test_a_chat_with_an_image(client: httpx.Client, reference: Reference) -> None:
    """As vLLM takes it."""
    url = f"data:image/png;base64,{reference.texts[0]}"
    image = {"type": "image_url", "image_url": {"url": url}}
    blank = {"type": "text", "text": " "}
    for body in (chat(image), chat(image, blank), chat(image) | {"encoding_format": "float", "input": None}):
        response = client.post("/v1/embeddings", json=body)
        assert response.status_code == 200, response.text
        assert_equal_in_float32(response.json()["data"][0]["embedding"], reference.vectors[0])
    refused = {
        "must have no text": chat(image, {"type": "text", "text": "Represent the image."}),
        "have 2": chat(image, image),
        "have 0": chat(),
        "either 'input' or 'messages'": chat(image) | {"input": reference.texts[0]},
        "messages with 'role' and 'content'": {"model": MODEL, "messages": [{"role": "user"}]},
        "image_url": chat({"type": "input_audio", "input_audio": {}}),
    }
    for words, body in refused.items():
        response = client.post("/v1/embeddings", json=body)
        assert response.status_code == 422
        assert words in response.json()["error"]["message"]


def test_null_is_what_is_left_out(client: httpx.Client, reference: Reference) -> None:
    names = ("encoding_format", "normalize", "size", "resize", "pool", "dimensions", "user", "messages")
    body = {"model": MODEL, "input": reference.texts[0]} | dict.fromkeys(names)
    assert_equal_in_float32(
        client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"], reference.vectors[0]
    )


def test_a_size_may_be_a_number(client: httpx.Client, reference: Reference) -> None:
    body = {"model": MODEL, "input": reference.texts[0]}
    number, text = (client.post("/v1/embeddings", json=body | {"size": size}) for size in (70, "70"))
    assert number.json()["usage"] == text.json()["usage"] == {"prompt_tokens": 26, "total_tokens": 26}
    for size in (70.5, True, [70], -70):
        assert client.post("/v1/embeddings", json=body | {"size": size}).status_code == 422


def test_members_that_cannot_change_an_answer_are_passed_over(client: httpx.Client, reference: Reference) -> None:
    body = {"model": MODEL, "input": reference.texts[0], "input_type": "query", "truncate": "END", "user": "me"}
    assert client.post("/v1/embeddings", json=body).status_code == 200


def test_no_error_repeats_a_picture(client: httpx.Client, reference: Reference) -> None:
    text = reference.texts[0]
    wrong: list[Any] = [
        {"model": MODEL, "input": [text, 5]},
        {"model": MODEL, "input": {"image": text, "x": 1}},
        {"model": MODEL, "input": {"image": {"url": text}}},
        {"model": MODEL, "input": text, "size": text},
        {"model": MODEL, "input": text, "pool": [text]},
        {"model": text, "input": text},
        {"model": MODEL, "input": text, text: 1},
        {"model": MODEL, "input": text[:-3] + "!!!"},
        {"model": MODEL, "messages": [{"role": "user", "content": text}]},
    ]
    responses = [client.post("/v1/embeddings", json=body) for body in wrong]
    responses += [
        client.post("/classify", json={text: [text]}),
        client.post("/classify", json={"images": text}),
        client.post("/classify", files={text[:90] + "x": (None, b"x")}),
        client.post("/pipeline/image-classification", json={"inputs": [text]}),
        client.post("/pipeline/image-classification", json={"inputs": text, "parameters": {"top_k": text}}),
        client.post(f"/v2/models/{MODEL}/infer", json={"inputs": text, "id": [text]}),
        client.post(f"/v2/models/{MODEL}/infer", json={"inputs": [{"name": text, "datatype": text, "shape": text}]}),
    ]
    for response in responses:
        assert 400 <= response.status_code < 500
        if "form field" not in response.text:
            assert text[:24] not in response.text
        assert len(response.text) < 900


def test_patches_are_refused(client: httpx.Client, reference: Reference) -> None:
    """A vector of each patch is not what the schema of these answers has; /embed answers them."""
    body = {"model": MODEL, "input": reference.texts[0], "pool": "patches"}
    for response in (
        client.post("/v1/embeddings", json=body),
        client.post("/pipeline/image-feature-extraction?pool=patches", content=reference.files[0]),
    ):
        assert response.status_code == 422
        assert "must be 'cls', 'mean' or 'native'" in response.text


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
