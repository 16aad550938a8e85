"""Every route that takes images, with a request that it answers."""

import base64
from collections.abc import Callable

import httpx


def texts(files: list[bytes]) -> list[str]:
    return [base64.b64encode(file).decode() for file in files]


def infer(client: httpx.Client, files: list[bytes], *outputs: str, version: str = "") -> httpx.Response:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": texts(files)}
    body = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}
    return client.post(f"/v2/models/vit-small-tiny-imagenet{version}/infer", json=body)


def parts(files: list[bytes]) -> list[tuple[str, bytes]]:
    return [("image", file) for file in files]


Asking = Callable[[httpx.Client, list[bytes]], httpx.Response]

ASKING: list[tuple[str, str, int, Asking]] = [
    ("/classify", "classify", 2, lambda client, files: client.post("/classify", files=parts(files))),
    ("/embed", "embed", 2, lambda client, files: client.post("/embed", files=parts(files))),
    ("/embed", "embed", 2, lambda client, files: client.post("/embed?pool=patches&resize=squash", files=parts(files))),
    ("/attention", "attention", 2, lambda client, files: client.post("/attention?output=json", files=parts(files))),
    ("/features", "features", 2, lambda client, files: client.post("/features?format=json", files=parts(files))),
    ("/features", "features", 1, lambda client, files: client.post("/features?output=tokens", files=parts(files))),
    ("/preprocess", "preprocess", 1, lambda client, files: client.post("/preprocess", files=parts(files))),
    (
        "/v1/embeddings",
        "embed",
        2,
        lambda client, files: client.post(
            "/v1/embeddings", json={"model": "vit-small-tiny-imagenet", "input": texts(files)}
        ),
    ),
    ("/v2/models/{name}/infer", "both", 2, infer),
    ("/v2/models/{name}/infer", "both", 2, lambda client, files: infer(client, files, "labels", "embedding")),
    ("/v2/models/{name}/infer", "embed", 2, lambda client, files: infer(client, files, "embedding")),
    ("/v2/models/{name}/infer", "classify", 2, lambda client, files: infer(client, files, "scores", "labels")),
    (
        "/v2/models/{name}/versions/{version}/infer",
        "embed",
        2,
        lambda client, files: infer(client, files, "embedding", version="/versions/1"),
    ),
    (
        "/pipeline/image-classification",
        "classify",
        1,
        lambda client, files: client.post("/pipeline/image-classification", content=files[0]),
    ),
    (
        "/pipeline/image-feature-extraction",
        "embed",
        2,
        lambda client, files: client.post("/pipeline/image-feature-extraction", json={"inputs": texts(files)}),
    ),
    ("/invocations", "classify", 2, lambda client, files: client.post("/invocations", json={"images": texts(files)})),
]
"""Of every route that takes images, and each kind of its answers: the task, how many images, and the request."""
