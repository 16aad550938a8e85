"""Triton's official client against a real server process."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from app.pictures.decode import Limits, decode, to_network
from app.settings import FORMATS
from models.checkpoints.checkpoint import Checkpoint
from tests.api.dialects.conftest import MODEL, Reference
from tests.api.dialects.problems import BAD_IMAGES, BadImage
from tests.bounds import assert_equal_in_float32
from tests.server import Server


@pytest.fixture(scope="module")
def official(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def tensor(name: str, values: Any, datatype: str, *, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def files(*contents: bytes) -> Any:
    return np.array(contents, dtype=object)


def pixels_of(reference: Reference, checkpoint: Checkpoint) -> Any:
    """Return the images after the checkpoint's own preprocessing: (2, 3, H, W) uint8."""
    preprocess = checkpoint.content.preprocess
    pictures = [decode(file, Limits(FORMATS, 50_000_000)) for file in reference.files]
    patch = checkpoint.content.config.patch_size
    plans = [preprocess.plan(picture.size, patch, None, None) for picture in pictures]
    return np.stack([to_network(*pair, preprocess.interpolation) for pair in zip(pictures, plans, strict=True)])


def normalised(pixels: Any, checkpoint: Checkpoint) -> Any:
    preprocess = checkpoint.content.preprocess
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preprocess.mean, preprocess.std))
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def test_health_and_metadata(official: Any) -> None:
    assert official.is_server_live()
    assert official.is_server_ready()
    assert official.is_model_ready(MODEL)
    assert not official.is_model_ready("another")
    assert "binary_tensor_data" in official.get_server_metadata()["extensions"]
    metadata = official.get_model_metadata(MODEL)
    assert {t["name"]: (t["datatype"], t["shape"]) for t in metadata["inputs"]} == {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8", [-1, 3, -1, -1]),
        "pixel_values": ("FP32", [-1, 3, -1, -1]),
    }
    assert {t["name"]: (t["datatype"], t["shape"]) for t in metadata["outputs"]} == {
        "embedding": ("FP32", [-1, 384]),
        "scores": ("FP32", [-1, -1]),
        "labels": ("BYTES", [-1, -1]),
    }


def test_the_model_has_one_version(official: Any, reference: Reference, client: httpx.Client) -> None:
    assert official.is_model_ready(MODEL, "1")
    assert official.get_model_metadata(MODEL, "1") == official.get_model_metadata(MODEL)
    assert official.get_model_metadata(MODEL)["versions"] == ["1"]
    given = [tensor("image", files(*reference.files), "BYTES")]
    result = official.infer(MODEL, given, model_version="1")
    assert_all_outputs(result, reference)
    assert result.get_response()["model_version"] == "1"
    for path in (f"/v2/models/{MODEL}/versions/2", f"/v2/models/{MODEL}/versions/2/ready"):
        response = client.get(path)
        assert response.status_code == 404
        assert "there is no version '2'" in response.json()["error"]
    with pytest.raises(InferenceServerException) as refused:
        official.infer(MODEL, given, model_version="latest")
    assert "serves version '1'" in refused.value.message()
    with pytest.raises(InferenceServerException) as refused:
        official.get_model_metadata("another", "1")
    assert "no model 'another'" in refused.value.message()


def test_the_models_are_listed(official: Any, client: httpx.Client) -> None:
    assert client.get("/v2/models").json() == {"models": [MODEL]}
    index = [{"name": MODEL, "version": "1", "state": "READY"}]
    assert official.get_model_repository_index() == index
    assert client.get("/v2/repository/index").json() == index
    assert client.post("/v2/repository/index", json={"ready": True}).json() == index
    assert client.post("/v2/repository/index", json={"raedy": True}).status_code == 422


PASSED_OVER: dict[str, dict[str, Any]] = {
    "timeout": {"parameters": {"timeout": 5_000_000}},
    "content_type": {"parameters": {"content_type": "np", "headers": {"x": "y"}}},
    "priority": {"parameters": {"priority": 1}},
    "of a tensor": {"tensor": {"parameters": {"content_type": "base64"}}},
    "of an output": {"outputs": [{"name": "embedding", "parameters": {"content_type": "np"}}]},
    "null": {"id": None, "parameters": {"size": None, "pool": None, "normalize": None, "top_k": None}},
    "a null list": {"outputs": None, "parameters": None},
}


@pytest.mark.parametrize("more", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_what_cannot_change_an_answer_is_passed_over(
    client: httpx.Client, reference: Reference, more: dict[str, Any]
) -> None:
    body = dict(more)
    given = {"name": "image", "datatype": "BYTES", "shape": [1], "data": reference.texts[:1]} | body.pop("tensor", {})
    answer = client.post(
        f"/v2/models/{MODEL}/infer", json={"outputs": [{"name": "embedding"}], "inputs": [given]} | body
    )
    assert answer.status_code == 200, answer.text
    values = {output["name"]: output for output in answer.json()["outputs"]}["embedding"]
    assert_equal_in_float32(values["data"], reference.vectors[0])


def test_the_shapes_are_those_of_the_metadata(official: Any, reference: Reference) -> None:
    """Whatever the parameters are."""
    shapes = {one["name"]: one["shape"] for one in official.get_model_metadata(MODEL)["outputs"]}
    given = [tensor("image", files(*reference.files), "BYTES")]
    asked: list[dict[str, Any]] = [{}, {"top_k": 0}, {"pool": "mean", "size": 70}, {"pool": "native", "size": "70x98"}]
    for parameters in asked:
        result = official.infer(MODEL, given, parameters=parameters)
        for output in result.get_response()["outputs"]:
            expected = shapes[output["name"]]
            assert len(output["shape"]) == len(expected)
            assert all(declared in (-1, length) for declared, length in zip(expected, output["shape"], strict=True))
    with pytest.raises(InferenceServerException) as refused:
        official.infer(MODEL, given, parameters={"pool": "patches"})
    assert "parameters.pool='patches': must be 'cls', 'mean' or 'native'" in refused.value.message()


def assert_all_outputs(result: Any, reference: Reference) -> None:
    assert_equal_in_float32(result.as_numpy("embedding"), reference.vectors)
    assert_equal_in_float32(result.as_numpy("scores"), [[row["score"] for row in rows] for rows in reference.classes])
    labels = [
        [label if isinstance(label, str) else label.decode() for label in row] for row in result.as_numpy("labels")
    ]
    assert labels == [[row["label"] for row in rows] for rows in reference.classes]


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "json out"])
@pytest.mark.parametrize("kind", ["files", "base64", "uint8", "uint8 in json", "fp32", "fp32 in json"])
def test_every_input_and_output_in_both_ways(
    official: Any, reference: Reference, checkpoint: Checkpoint, kind: str, binary_out: bool
) -> None:
    pixels, binary = pixels_of(reference, checkpoint), not kind.endswith("json")
    if kind == "files":
        given = tensor("image", files(*reference.files), "BYTES")
    elif kind == "base64":
        given = tensor("image", files(*(text.encode() for text in reference.texts)), "BYTES", binary=False)
    elif kind.startswith("uint8"):
        given = tensor("pixels", pixels, "UINT8", binary=binary)
    else:
        given = tensor("pixel_values", normalised(pixels, checkpoint), "FP32", binary=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("embedding", "scores", "labels")]
    assert_all_outputs(official.infer(MODEL, [given], outputs=outputs), reference)


def test_all_outputs_are_returned_by_default(official: Any, reference: Reference) -> None:
    result = official.infer(MODEL, [tensor("image", files(*reference.files), "BYTES")], request_id="mine")
    assert_all_outputs(result, reference)
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_name"] == MODEL


def test_only_the_selected_outputs_are_returned(official: Any, reference: Reference) -> None:
    mixed = [triton.InferRequestedOutput("labels", binary_data=False), triton.InferRequestedOutput("scores")]
    column = files(*reference.files).reshape(2, 1)  # the shape of Triton's own batching
    result = official.infer(MODEL, [tensor("image", column, "BYTES")], outputs=mixed, parameters={"top_k": 2})
    assert result.as_numpy("embedding") is None
    assert result.as_numpy("labels").shape == result.as_numpy("scores").shape == (2, 2)


def test_the_parameters_of_embed(official: Any, client: httpx.Client, reference: Reference) -> None:
    query: dict[str, Any] = {"size": "70x98", "resize": "squash", "pool": "mean", "normalize": True}
    expected = client.post("/embed", params=query, content=reference.files[0])
    result = official.infer(
        MODEL,
        [tensor("image", files(reference.files[0]), "BYTES")],
        outputs=[triton.InferRequestedOutput("embedding")],
        parameters=query,
    )
    assert_equal_in_float32(result.as_numpy("embedding")[0], expected.json()["results"][0]["embedding"])


def test_pixels_keep_their_size(official: Any, reference: Reference, checkpoint: Checkpoint) -> None:
    wide = np.repeat(pixels_of(reference, checkpoint)[:1], 2, axis=3)
    embedding = [triton.InferRequestedOutput("embedding")]
    as_uint8 = official.infer(MODEL, [tensor("pixels", wide, "UINT8")], outputs=embedding)
    as_fp32 = official.infer(MODEL, [tensor("pixel_values", normalised(wide, checkpoint), "FP32")], outputs=embedding)
    assert_equal_in_float32(as_uint8.as_numpy("embedding"), as_fp32.as_numpy("embedding"))


def zeros(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.zeros(shape, dtype)


REFUSED: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "an unknown input": (tensor("x", files(b""), "BYTES"), {}, "422", "there is no input"),
    "another datatype": (tensor("image", zeros(1, 3, 14, 14), "UINT8"), {}, "422", "there is no input"),
    "no image": (tensor("image", np.zeros(0, object), "BYTES"), {}, "400", "no image"),
    "too many": (tensor("image", files(*[b"x"] * 65), "BYTES"), {}, "413", "more than 64"),
    "no patch": (tensor("pixels", zeros(1, 3, 14, 15), "UINT8"), {}, "422", "multiple of 14"),
    "four channels": (tensor("pixels", zeros(1, 4, 14, 14), "UINT8"), {}, "422", "(n, 3, height, width)"),
    "no batch": (tensor("pixels", zeros(3, 14, 14), "UINT8"), {}, "422", "(n, 3, height, width)"),
    "nothing": (tensor("pixels", zeros(1, 3, 0, 14), "UINT8"), {}, "422", "(n, 3, height, width)"),
    "too many tokens": (tensor("pixels", zeros(1, 3, 1400, 700), "UINT8"), {}, "422", "4096 are allowed"),
    "not normalised": (tensor("pixel_values", zeros(1, 3, 14, 14, dtype="f4") + 255, "FP32"), {}, "422", "normalised"),
    "no number": (tensor("pixel_values", np.full((1, 3, 14, 14), np.nan, "f4"), "FP32"), {}, "422", "normalised"),
    "a size for pixels": (
        tensor("pixels", zeros(1, 3, 14, 14), "UINT8"),
        {"parameters": {"size": "28"}},
        "422",
        "only for images",
    ),
    "an unknown parameter": (
        tensor("image", files(b"x"), "BYTES"),
        {"parameters": {"colour": "red"}},
        "422",
        "parameters.colour",
    ),
    "an unknown output": (
        tensor("image", files(b"x"), "BYTES"),
        {"outputs": [triton.InferRequestedOutput("logits")]},
        "422",
        "outputs.0.name",
    ),
    "triton's classification": (
        tensor("image", files(b"x"), "BYTES"),
        {"outputs": [triton.InferRequestedOutput("scores", class_count=2)]},
        "422",
        "classification",
    ),
    "a sequence": (tensor("image", files(b"x"), "BYTES"), {"sequence_id": 7}, "422", "sequence"),
}


@pytest.mark.parametrize(("given", "more", "status", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_errors_have_the_protocols_format(official: Any, given: Any, more: Any, status: str, words: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        official.infer(MODEL, [given], **more)
    assert refused.value.status() == status
    assert words in refused.value.message()


@pytest.mark.parametrize("bad", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_one_bad_image_fails_the_request_and_is_named(official: Any, reference: Reference, bad: BadImage) -> None:
    with pytest.raises(InferenceServerException) as refused:
        official.infer(MODEL, [tensor("image", files(reference.files[0], bad.make()), "BYTES")])
    assert refused.value.status() == str(bad.status)
    assert refused.value.message().startswith("image 1: ")


def test_another_model_is_not_found(official: Any) -> None:
    for call, more in ((official.get_model_metadata, ()), (official.infer, ([],))):
        with pytest.raises(InferenceServerException) as refused:
            call("another", *more)
        assert refused.value.status() == "404"
        assert "another" in refused.value.message()


INPUT = {"name": "pixels", "shape": [1, 3, 14, 14], "datatype": "UINT8"}
LONG = b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}'
BROKEN: dict[str, tuple[dict[str, Any], int]] = {
    "no json": ({"content": b"{"}, 400),
    "no inputs": ({"json": {"inputs": []}}, 422),
    "two inputs": ({"json": {"inputs": [INPUT | {"data": []}] * 2}}, 422),
    "no data": ({"json": {"inputs": [INPUT]}}, 400),
    "too little data": ({"json": {"inputs": [INPUT | {"data": [1, 2]}]}}, 422),
    "ragged data": ({"json": {"inputs": [INPUT | {"data": [[1, 2], [3]]}]}}, 422),
    "words": ({"json": {"inputs": [INPUT | {"data": ["a"] * 588}]}}, 422),
    "halves": ({"json": {"inputs": [INPUT | {"data": [0.5] * 588}]}}, 422),
    "beyond a byte": ({"json": {"inputs": [INPUT | {"data": [256] * 588}]}}, 422),
    "yes and no": ({"json": {"inputs": [INPUT | {"data": [True] * 588}]}}, 422),
    "numbers for images": (
        {"json": {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [1]}]}},
        422,
    ),
    "a size without data": (
        {"json": {"inputs": [INPUT | {"parameters": {"binary_data_size": 588}}]}},
        400,
    ),
    "a header of words": ({"content": b"{}", "headers": {"Inference-Header-Content-Length": "all"}}, 400),
    "a header beyond the body": ({"content": b"{}", "headers": {"Inference-Header-Content-Length": "3"}}, 400),
    "an element beyond the body": (
        {"content": LONG + b"\xff\xff\x00\x00x", "headers": {"Inference-Header-Content-Length": str(len(LONG))}},
        400,
    ),
}


@pytest.mark.parametrize(("request_", "status"), BROKEN.values(), ids=BROKEN.keys())
def test_malformed_requests(client: httpx.Client, request_: dict[str, Any], status: int) -> None:
    response = client.post(f"/v2/models/{MODEL}/infer", **request_)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert len(response.json()["error"]) > 10
