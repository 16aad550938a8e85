"""The answers of the main endpoints, which the dialects' answers are compared with; all from the same server."""

import base64
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server import Server

MODEL = "vit-small-tiny-imagenet"


@dataclass(frozen=True)
class Reference:
    """Two images, and what /embed and /classify answer for them."""

    files: list[bytes]
    vectors: NDArray[np.float32]
    classes: list[list[dict[str, Any]]]

    @property
    def texts(self) -> list[str]:
        return [base64.b64encode(file).decode() for file in self.files]


@pytest.fixture(scope="session")
def reference(server: Server, cat: bytes, espresso: bytes) -> Reference:
    files = [("image", cat), ("image", espresso)]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        vectors = [result["embedding"] for result in client.post("/embed", files=files).json()["results"]]
        classes = [result["predictions"] for result in client.post("/classify", files=files).json()["results"]]
    return Reference([cat, espresso], np.array(vectors, np.float32), classes)
