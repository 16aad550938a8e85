"""The requests that SageMaker sends to a container, sent to a real server process. Its clients cannot reach one."""

from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.dialects.conftest import Reference
from tests.bounds import assert_equal_in_float32

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def test_ping(client: httpx.Client) -> None:
    assert client.get("/ping").status_code == 200


def test_invocations_answer_as_classify_and_embed_do(client: httpx.Client, reference: Reference, cat: bytes) -> None:
    headers = {"Content-Type": "image/png"}
    classified = client.post("/invocations", content=cat, headers=headers).json()["results"][0]["predictions"]
    assert [row["label"] for row in classified] == [row["label"] for row in reference.classes[0]]
    assert_equal_in_float32([p["score"] for p in classified], [p["score"] for p in reference.classes[0]])
    embedded = client.post("/invocations", json={"images": reference.texts}, headers={ATTRIBUTES: "task=embed"})
    assert_equal_in_float32([result["embedding"] for result in embedded.json()["results"]], reference.vectors)


def test_attributes_carry_the_parameters_and_accept_selects_the_format(client: httpx.Client, cat: bytes) -> None:
    query = "size=70&pool=mean&normalize=true"
    headers = {ATTRIBUTES: f"task=embed&{query}", "Accept": "application/x-npy"}
    response = client.post("/invocations", content=cat, headers=headers)
    expected = client.post(f"/embed?{query}", content=cat, headers={"Accept": "application/x-npy"})
    assert response.headers["vitrine-fingerprint"] == expected.headers["vitrine-fingerprint"]
    assert_equal_in_float32(
        np.frombuffer(response.content[-1536:], "<f4"), np.frombuffer(expected.content[-1536:], "<f4")
    )
    top = client.post("/invocations", content=cat, headers={ATTRIBUTES: "task=classify&top_k=2"})
    assert len(top.json()["results"][0]["predictions"]) == 2


@pytest.mark.parametrize(
    "attributes",
    [
        "c000b4f9-df62-4c85-a0bf-7c525f9104a4",
        "trace_id=4bf92f3577b34da6&top_k=5",
        "X-Amzn-Trace-Id=Root%3D1-5759e988&request-id=7",
    ],
)
def test_the_id_of_a_trace_is_passed_over(client: httpx.Client, cat: bytes, attributes: str) -> None:
    response = client.post("/invocations", content=cat, headers={ATTRIBUTES: attributes})
    assert response.status_code == 200, response.text
    assert len(response.json()["results"][0]["predictions"]) == 5


@pytest.mark.parametrize(
    ("attributes", "content", "status", "code"),
    [
        ("", b"", 400, "no_image"),
        ("", b"hello", 415, "not_an_image"),
        ("task=paint", b"x", 422, "invalid_parameter"),
        ("task=embed&top_k=2", b"x", 422, "unknown_parameter"),
        ("sise=70", b"x", 422, "unknown_parameter"),
        ("normalize", b"x", 422, "unknown_parameter"),
        ("task", b"x", 422, "invalid_parameter"),
        ("size=0", b"x", 422, "invalid_parameter"),
        ("size=2000", b"x", 422, "too_many_tokens"),
        ("a" * 1025, b"x", 422, "invalid_parameter"),
    ],
)
def test_errors(client: httpx.Client, attributes: str, content: bytes, status: int, code: str) -> None:
    response: Any = client.post("/invocations", content=content, headers={ATTRIBUTES: attributes})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
