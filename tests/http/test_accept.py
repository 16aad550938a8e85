"""The header Accept chooses the media type, with weights and wildcards; what cannot be given is 406 with what can."""

from typing import Any

import httpx
import pytest

from app.http.headers.quality import preferred
from tests.routes import texts

JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"
MODEL = "vit-small-tiny-imagenet"

ACCEPT = {
    None: JSON,
    "": JSON,
    "*/*": JSON,
    "*": JSON,
    "application/*": JSON,
    NPY: NPY,
    "Application/X-NPY;version=1": NPY,
    "application/json;charset=utf-8": JSON,
    "application/json;q=0.5, application/x-npy": NPY,
    "application/x-npy;q=0.5, application/json": JSON,
    "application/x-npy;q=0.5, */*": JSON,
    "*/*, application/x-npy": NPY,
    "application/x-npy, application/json": NPY,
    "application/json, application/x-npy": JSON,
    "application/json;q=0, */*": NPY,
    "application/x-npy;q=0, application/*;q=0.1": JSON,
    "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2": JSON,
    "text/html": None,
    "image/*": None,
    "application/json;q=0": None,
    "*/*;q=0": None,
}


@pytest.mark.parametrize(("header", "chosen"), ACCEPT.items(), ids=map(str, ACCEPT))
def test_the_preferred_type_is_chosen(header: str | None, chosen: str | None) -> None:
    assert preferred(header, (JSON, NPY)) == chosen


GIVEN = [
    ("/classify", "text/html, application/xhtml+xml, */*;q=0.8", JSON),
    ("/classify", "application/json;q=0.1, application/x-npy;q=0.2", NPY),
    ("/classify", "application/x-npy;q=0", ""),
    ("/classify", "image/png", ""),
    ("/embed", "application/x-npy;q=0.2, application/*", JSON),
    ("/embed?pool=patches", "*/*", NPY),
    ("/embed?pool=patches", JSON, ""),
    ("/attention", "image/*", PNG),
    ("/attention", "*/*", PNG),
    ("/attention", "application/*", JSON),
    ("/attention", "image/png;q=0.5, application/x-npy;q=0.7", NPY),
    ("/attention", "image/jpeg", ""),
    ("/attention?output=json", PNG, JSON),
    ("/preprocess", "image/webp, image/*;q=0.1", PNG),
    ("/preprocess", NPY, ""),
    ("/invocations", NPY, NPY),
    ("/invocations", "text/csv", ""),
    ("/pipeline/image-classification", NPY, ""),
    ("/pipeline/image-feature-extraction", "text/html", ""),
]


@pytest.mark.parametrize(("path", "accept", "expected"), GIVEN)
def test_each_endpoint_gives_what_is_asked_for(
    client: httpx.Client, cat: bytes, path: str, accept: str, expected: str
) -> None:
    response = client.post(path, content=cat, headers={"Accept": accept})
    if expected:
        assert (response.status_code, response.headers["content-type"]) == (200, expected)
        return
    if accept == "application/x-npy;q=0":
        assert "application/x-npy" in response.text
    assert response.status_code == 406
    assert "that can be given here: " in response.text


def test_the_other_protocols_say_what_they_give(client: httpx.Client, cat: bytes) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": texts([cat])}
    bodies: dict[str, Any] = {
        "/v1/embeddings": {"model": MODEL, "input": texts([cat])},
        f"/v2/models/{MODEL}/infer": {"inputs": [tensor], "outputs": [{"name": "labels"}]},
    }
    for path, body in bodies.items():
        assert client.post(path, json=body, headers={"Accept": JSON}).status_code == 200
        refused = client.post(path, json=body, headers={"Accept": "text/csv"})
        assert refused.status_code == 406
        assert "can be given here: application/json" in refused.text


def test_an_error_has_its_own_type_whatever_is_accepted(client: httpx.Client) -> None:
    response = client.post("/embed", content=b"no image", headers={"Accept": NPY})
    assert (response.status_code, response.headers["content-type"]) == (415, "application/problem+json")
