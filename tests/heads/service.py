"""Requests to a service about heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from tests.heads.labelled import cut

Files = list[tuple[str, tuple[str, bytes]]]


def files(counts: Mapping[str, int], first: int = 0) -> Files:
    """Multipart fields: so many pictures of each class."""
    return [
        (name, (f"{name}-{first + number}.png", file))
        for name, count in counts.items()
        for number, file in enumerate(cut(name, count, first))
    ]


def put(client: httpx.Client, name: str, counts: Mapping[str, int], query: str = "", **headers: str) -> httpx.Response:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.put(f"/heads/{name}{query}", files=files(counts), headers=sent)


def add(client: httpx.Client, name: str, pictures: Files, query: str = "", **headers: str) -> httpx.Response:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post(f"/heads/{name}/examples{query}", files=pictures, headers=sent)


def classify(client: httpx.Client, head: str, pictures: Sequence[bytes], query: str = "") -> Any:
    answer = client.post(f"/classify?head={head}{query}", files=[("image", picture) for picture in pictures])
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]
