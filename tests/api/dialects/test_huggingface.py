"""Hugging Face's official client against a real server process."""

import asyncio
from typing import Any

import httpx
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.api.dialects.conftest import Reference
from tests.api.dialects.problems import BAD_IMAGES, BadImage
from tests.bounds import assert_equal_in_float32
from tests.server import ROOT, Server

CLASSIFICATION, FEATURES = "/pipeline/image-classification", "/pipeline/image-feature-extraction"


def classifier(server: Server, query: str = "") -> InferenceClient:
    return InferenceClient(model=f"{server.url}{CLASSIFICATION}{query}", token="none")


def extractor(server: Server, query: str = "") -> InferenceClient:
    return InferenceClient(model=f"{server.url}{FEATURES}{query}", token="none")


def test_classes_are_those_of_classify(server: Server, reference: Reference) -> None:
    for file, classes in zip(reference.files, reference.classes, strict=True):
        answer = classifier(server).image_classification(file)
        assert [row.label for row in answer] == [row["label"] for row in classes]
        assert_equal_in_float32([row.score for row in answer], [row["score"] for row in classes])


def test_every_form_of_image_and_parameter(server: Server) -> None:
    path = ROOT / "examples" / "cat.png"
    forms: list[Any] = [path, str(path), path.read_bytes()]
    for form in forms:
        assert classifier(server).image_classification(form)[0].label == "Egyptian cat"
    assert len(classifier(server).image_classification(path, top_k=2)) == 2
    assert len(classifier(server).image_classification(path, function_to_apply="softmax")) == 5
    assert len(classifier(server, "?size=70&resize=fit").image_classification(path, top_k=0)) == 200


def test_vectors_are_those_of_embed(server: Server, client: httpx.Client, reference: Reference) -> None:
    text = reference.texts[0]
    answer = extractor(server).feature_extraction(text)
    assert answer.dtype == "float32"
    assert_equal_in_float32(answer, reference.vectors[:1])
    both: Any = reference.texts
    assert_equal_in_float32(extractor(server).feature_extraction(both), reference.vectors)
    uri = f"data:image/png;base64,{text}"
    query: dict[str, Any] = {"pool": "mean", "size": "70", "normalize": True}
    expected = client.post("/embed", params=query, content=reference.files[0]).json()["results"][0]["embedding"]
    answer = extractor(server, "?pool=mean&size=70").feature_extraction(uri, normalize=True)
    assert_equal_in_float32(answer[0], expected)
    raw = client.post(FEATURES, content=reference.files[0])
    assert_equal_in_float32(raw.json(), reference.vectors[:1])


def test_the_asynchronous_client(server: Server, reference: Reference) -> None:
    async def embed() -> Any:
        async with AsyncInferenceClient(model=f"{server.url}{FEATURES}", token="none") as official:
            return await official.feature_extraction(reference.texts[1])

    assert_equal_in_float32(asyncio.run(embed()), reference.vectors[1:])


def test_options_of_other_servers_are_passed_over(client: httpx.Client, server: Server, reference: Reference) -> None:
    text = reference.texts[0]
    options = {"inputs": text, "options": {"wait_for_model": True, "use_cache": False}}
    for path in (CLASSIFICATION, FEATURES):
        assert client.post(path, json=options).status_code == 200
    assert client.post(CLASSIFICATION, json={"inputs": text, "parameters": None}).status_code == 200
    assert_equal_in_float32(extractor(server).feature_extraction(text, truncate=True), reference.vectors[:1])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"top_k": 2}, """it belongs in 'parameters', as in {"inputs": "<base64>", "parameters": {"top_k": 2}}"""),
        ({"function_to_apply": "softmax"}, "it belongs in 'parameters'"),
        ({"parameters": {"size": 224}}, "it belongs in the query, as in ?size=224"),
        ({"size": "224"}, "it belongs in the query, as in ?size=224"),
        ({"max_patches": 64}, "it belongs in the query, as in ?size=224"),
    ],
)
def test_a_parameter_in_another_place_is_told_its_own(
    client: httpx.Client, reference: Reference, body: dict[str, Any], words: str
) -> None:
    response = client.post(CLASSIFICATION, json={"inputs": reference.texts[0]} | body)
    assert (response.status_code, response.json()["error_type"]) == (422, "unknown_parameter")
    assert words in response.json()["error"]


def assert_hugging_face_error(error: HfHubHTTPError, status: int, code: str) -> None:
    assert error.response.status_code == status
    body = error.response.json()
    assert set(body) == {"error", "error_type", "request_id"}
    assert (body["error_type"], body["request_id"]) == (code, error.response.headers["x-request-id"])
    assert body["error"] in str(error)


@pytest.mark.parametrize("bad", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_images(server: Server, bad: BadImage) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        classifier(server).image_classification(bad.make())
    code = "no_image" if bad.code == "empty_image" else bad.code
    assert_hugging_face_error(refused.value, bad.status, code)


def test_errors_have_hugging_faces_format(server: Server, reference: Reference, cat: bytes) -> None:
    text = reference.texts[0]
    many: Any = ["AAAA"] * 65
    for call, status, code in (
        (lambda: classifier(server).image_classification(cat, function_to_apply="none"), 422, "invalid_parameter"),
        (lambda: classifier(server).image_classification(cat, top_k=-1), 422, "invalid_parameter"),
        (lambda: classifier(server, "?size=0").image_classification(cat), 422, "invalid_parameter"),
        (lambda: classifier(server, "?size=2000").image_classification(cat), 422, "too_many_tokens"),
        (lambda: classifier(server, "?colour=red").image_classification(cat), 422, "unknown_parameter"),
        (lambda: extractor(server).feature_extraction("a cat, in words"), 422, "bad_base64"),
        (lambda: extractor(server).feature_extraction(text, prompt_name="query"), 422, "unknown_parameter"),
        (lambda: extractor(server).feature_extraction(many), 413, "too_many_images"),
        (lambda: classifier(server, "/nothing").image_classification(cat), 404, "not_found"),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            call()
        assert_hugging_face_error(refused.value, status, code)
