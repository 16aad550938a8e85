"""No route ignores a parameter: an unknown one is refused by its name, and so is one that is given twice."""

from typing import Any

import httpx
import pytest

from tests.routes import texts
from tests.server import Server

MODEL = "vit-small-tiny-imagenet"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

ELSEWHERE = {
    "/v1/embeddings?size=224": "members of the JSON body",
    f"/v2/models/{MODEL}/infer?size=224": "'parameters' of the JSON body",
    "/invocations?size=224": ATTRIBUTES,
    "/pipeline/image-classification?top_k=2": "'parameters' of the JSON body",
    "/classify?siz=224": "allowed are size, resize, max_patches, head, top_k, explain",
    "/healthz?size=224": "this path has none",
}


@pytest.mark.parametrize(("path", "words"), ELSEWHERE.items(), ids=ELSEWHERE.keys())
def test_a_refusal_says_where_parameters_belong(client: httpx.Client, path: str, words: str, cat: bytes) -> None:
    response = client.get(path) if path.startswith("/healthz") else client.post(path, content=cat)
    assert response.status_code == 422
    assert f"unknown query parameter '{path.split('?')[1].split('=', maxsplit=1)[0]}'" in response.text
    assert words in response.text


def operations(server: Server) -> list[tuple[str, str, list[str]]]:
    document: Any = httpx.get(f"{server.url}/openapi.json").json()
    return [
        (
            method,
            path.replace("{name}", MODEL).replace("{version}", "1"),
            [parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"],
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_every_route_refuses_an_unknown_parameter_and_one_that_comes_twice(server: Server) -> None:
    found = operations(server)
    assert len(found) > 15
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for method, path, names in found:
            assert client.request(method, f"{path}?colour=red").status_code == 422, path
            for name in names:
                response = client.request(method, f"{path}?{name}=1&{name}=1")
                assert response.status_code == 422, path
                assert f"the query parameter '{name}' is given twice" in response.text


def test_a_page_takes_what_others_put_behind_its_address(client: httpx.Client) -> None:
    for path in ("/?utm_source=x", "/static/main.js?v=1", "/docs?x=1"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/embeddings", b'{"model": "m", "input": "AAAA", "size": "70", "size": "224"}', "size"),
        ("/v1/embeddings", b'{"model": "m", "input": "AAAA", "size": "70", "\\u0073ize": "224"}', "size"),
        (f"/v2/models/{MODEL}/infer", b'{"inputs": [], "parameters": {"top_k": 1, "top_k": 2}}', "top_k"),
        ("/pipeline/image-classification", b'{"inputs": "AAAA", "parameters": {"top_k": 1, "top_k": 2}}', "top_k"),
        ("/classify", b'{"images": ["AAAA"], "images": []}', "images"),
    ],
)
def test_a_member_of_json_that_comes_twice_is_refused(client: httpx.Client, path: str, body: bytes, name: str) -> None:
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert f"the member '{name}' is given twice" in response.text


def test_an_attribute_that_comes_twice_is_refused(client: httpx.Client, cat: bytes) -> None:
    twice: list[list[tuple[str, str]]] = [
        [(ATTRIBUTES, "task=embed&size=70&size=224")],
        [(ATTRIBUTES, "task=embed"), (ATTRIBUTES, "task=classify")],
    ]
    for headers in twice:
        response = client.post("/invocations", content=cat, headers=headers)
        assert response.status_code == 422
        assert "given twice" in response.json()["detail"]


def test_values_that_are_alike_are_not_mistaken_for_names(client: httpx.Client, cat: bytes) -> None:
    """A base64 text and a value may contain what is also a name."""
    body = {"model": MODEL, "input": texts([cat]), "user": '"model" "input" "user"'}
    assert client.post("/v1/embeddings", json=body).status_code == 200
