"""What the network sees and attends to, from a real server: /attention, /preprocess, patch tokens."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from app.pictures.decode import Limits, decode, to_network
from app.pictures.drawing import heat_png
from app.settings import FORMATS
from models.checkpoints.checkpoint import Checkpoint
from models.network.attention import AttentionSpec
from models.network.vit import Readout, VisionTransformer
from tests.api.test_api import NPY, array, by_hand
from tests.bounds import assert_equal_in_float32
from tests.conftest import MODEL
from tests.server import serving


def pixels_of(data: bytes, checkpoint: Checkpoint, size: Any = None, resize: Any = None) -> Any:
    """Return the network's pixels (3, height, width), uint8, without the service."""
    preprocess = checkpoint.content.preprocess
    picture = decode(data, Limits(FORMATS, 50_000_000))
    plan = preprocess.plan(picture.size, checkpoint.content.config.patch_size, size, resize)
    return to_network(picture, plan, preprocess.interpolation)


def attention_by_hand(
    pixels: Any, checkpoint: Checkpoint, network: VisionTransformer, attention_spec: AttentionSpec
) -> Any:
    preprocess = checkpoint.content.preprocess
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    with torch.inference_mode():
        image = (torch.from_numpy(pixels).float() / 255 - mean) / std
        return network([image], Readout(0), {0: attention_spec}).attention[0].numpy()


def opened_png(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(response.content))


SPECS: dict[str, tuple[dict[str, str], AttentionSpec, Any, Any]] = {
    "the last layer": ({}, AttentionSpec(11), None, None),
    "a head": ({"head": "3"}, AttentionSpec(11, 3), None, None),
    "an earlier layer": ({"layer": "4", "head": "0", "size": "140x98"}, AttentionSpec(4, 0), (140, 98), None),
    "rollout": ({"method": "rollout"}, AttentionSpec(11, rollout=True), None, None),
    "rollout, fit": ({"method": "rollout", "layer": "6", "resize": "fit"}, AttentionSpec(6, rollout=True), None, "fit"),
}


@pytest.mark.parametrize(("query", "attention_spec", "size", "resize"), SPECS.values(), ids=SPECS.keys())
def test_attention_is_that_of_the_network_run_by_hand(
    client: httpx.Client,
    checkpoint: Checkpoint,
    network: VisionTransformer,
    cat: bytes,
    query: dict[str, str],
    attention_spec: AttentionSpec,
    size: Any,
    resize: Any,
) -> None:
    pixels = pixels_of(cat, checkpoint, size, resize)
    expected = attention_by_hand(pixels, checkpoint, network, attention_spec)
    assert_equal_in_float32(array(client.post("/attention", params=query, content=cat, headers=NPY))[0], expected)
    answer = client.post("/attention", params=query | {"output": "json"}, content=cat).json()
    (result,) = answer["results"]
    assert (answer["layer"], answer["method"]) == (attention_spec.layer, "rollout" if attention_spec.rollout else "raw")
    assert answer["head"] == ("mean" if attention_spec.head is None else attention_spec.head)
    assert_equal_in_float32(result["attention"], expected)
    assert tuple(result["grid"]) == expected.shape
    for output, over in (("overlay", True), ("map", False)):
        served = opened_png(client.post("/attention", params=query | {"output": output}, content=cat))
        ours = Image.open(io.BytesIO(heat_png(expected, pixels, over=over)))
        # The weights agree within the bound and not bit for bit, which may change the rounding of a colour.
        difference = np.asarray(served, np.int16) - np.asarray(ours, np.int16)
        assert np.abs(difference).max() <= 2


def test_a_drawing_is_bright_where_the_attention_is(client: httpx.Client, cat: bytes) -> None:
    weights = array(client.post("/attention", content=cat, headers=NPY))[0]
    response = client.post("/attention?output=map", content=cat)
    drawn = np.asarray(opened_png(response).convert("L"), np.float64)
    side = drawn.shape[0] // 8
    patches = drawn.reshape(8, side, 8, side)
    assert np.ptp(patches, axis=(1, 3)).max() == 0
    assert patches[:, 0, :, 0].argmax() == weights.argmax()
    assert patches[:, 0, :, 0].argmin() == weights.argmin()
    header = response.headers["vitrine-attention"]
    assert header.startswith("layer=11, head=mean, method=raw, rows=8, columns=8, ")
    assert float(re.findall("max=([0-9.]+)", header)[0]) == pytest.approx(weights.max(), abs=1e-6)
    assert min(opened_png(client.post("/attention", content=cat)).size) >= 448


def test_accept_chooses_the_output_unless_a_parameter_does(client: httpx.Client, cat: bytes) -> None:
    for accept, expected in (
        ("application/json", "application/json"),
        ("application/x-npy", "application/x-npy"),
        ("image/png", "image/png"),
        ("*/*", "image/png"),
    ):
        assert client.post("/attention", content=cat, headers={"Accept": accept}).headers["content-type"] == expected, (
            accept
        )
    response = client.post("/attention?output=map", content=cat, headers={"Accept": "application/json"})
    assert response.headers["content-type"] == "image/png"
    response = client.post("/preprocess", content=cat, headers={"Accept": "application/json"})
    assert response.headers["content-type"] == "application/json"


def test_several_images_are_answered_as_numbers(client: httpx.Client, cat: bytes, espresso: bytes) -> None:
    files = [("image", cat), ("image", b"no image"), ("image", espresso)]
    for path, member in (("/attention", "attention"), ("/preprocess", "picture")):
        answer = client.post(path, params={"output": "json"}, files=files).json()
        assert answer["failed"] == 1
        assert answer["results"][1]["error"]["code"] == "not_an_image"
        (alone,) = client.post(path, params={"output": "json"}, content=espresso).json()["results"]
        if path == "/attention":
            assert_equal_in_float32(answer["results"][2][member], alone[member])
        else:
            assert answer["results"][2] == alone
        refused = client.post(path, files=files)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_many_images")
    refused = client.post("/attention", files=files, headers=NPY)
    assert (refused.status_code, refused.json()["code"]) == (415, "not_an_image")


REFUSED: dict[str, tuple[str, dict[str, str], int, str, str]] = {
    "a layer too many": ("/attention", {"layer": "12"}, 422, "invalid_parameter", "0 to 11"),
    "a layer below": ("/attention", {"layer": "-1"}, 422, "invalid_parameter", "layer"),
    "a head too many": ("/attention", {"head": "6"}, 422, "invalid_parameter", "0 to 5"),
    "a head that is no number": (
        "/attention",
        {"head": "each"},
        422,
        "invalid_parameter",
        "must be mean, all, or the index",
    ),
    "a head of a rollout": ("/attention", {"head": "0", "method": "rollout"}, 422, "invalid_parameter", "mean"),
    "an unknown method": ("/attention", {"method": "grad"}, 422, "invalid_parameter", "rollout"),
    "an unknown output": ("/attention", {"output": "svg"}, 422, "invalid_parameter", "overlay"),
    "an unknown parameter": ("/attention", {"top_k": "1"}, 422, "unknown_parameter", "top_k"),
    "too many tokens": ("/attention", {"size": "2000"}, 422, "too_many_tokens", "4096"),
    "too many tokens to preprocess": ("/preprocess", {"size": "2000"}, 422, "too_many_tokens", "4096"),
    "an output that /preprocess does not have": ("/preprocess", {"output": "npy"}, 422, "invalid_parameter", "png"),
}


@pytest.mark.parametrize(("path", "query", "status", "code", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_say_what_is_allowed(
    client: httpx.Client, cat: bytes, path: str, query: dict[str, str], status: int, code: str, named: str
) -> None:
    response = client.post(path, params=query, content=cat)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert named in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/attention", "/preprocess"])
def test_a_bad_image_is_refused_as_everywhere(client: httpx.Client, path: str) -> None:
    for body, status, code in (
        (b"hello", 415, "not_an_image"),
        (b"", 400, "no_image"),
        (b"\x89PNG\r\n\x1a\n", 422, ""),
    ):
        response = client.post(path, content=body)
        assert response.status_code == status
        assert response.json()["code"] == (code or "undecodable")


@pytest.mark.parametrize(("size", "resize"), [(None, None), ((140, 98), "squash"), ((224, 224), "fit"), (None, "crop")])
def test_the_preprocessed_picture_is_the_input_of_the_network(
    client: httpx.Client, checkpoint: Checkpoint, phone_picture: bytes, size: Any, resize: Any
) -> None:
    query = ({"size": f"{size[0]}x{size[1]}"} if size else {}) | ({"resize": resize} if resize else {})
    expected = pixels_of(phone_picture, checkpoint, size, resize)
    response = client.post("/preprocess", params=query, content=phone_picture)
    assert np.array_equal(np.asarray(opened_png(response)).transpose(2, 0, 1), expected)
    assert response.headers["vitrine-image"] == "width=3024, height=4032, format=JPEG"
    _, height, width = expected.shape
    assert response.headers["vitrine-network"].startswith(f"width={width}, height={height}, resize=")
    assert response.headers["vitrine-network"].endswith(f"tokens={height * width // 196 + 1}, interpolated=?1")
    (result,) = client.post("/preprocess", params=query | {"output": "json"}, content=phone_picture).json()["results"]
    assert base64.b64decode(result["picture"].removeprefix("data:image/png;base64,")) == response.content
    assert result["grid"] == [height // 14, width // 14]
    steps = result["steps"]
    assert response.headers["vitrine-steps"] == (
        f"scaled-width={steps['scaled_width']}, scaled-height={steps['scaled_height']}, "
        f"left={steps['left']}, top={steps['top']}"
    )


def test_preprocess_does_not_run_the_network(client: httpx.Client, cat: bytes) -> None:
    timing = client.post("/preprocess", content=cat).headers["server-timing"]
    assert "decode" in timing
    assert "forward" not in timing


def test_patch_tokens(
    client: httpx.Client, checkpoint: Checkpoint, network: VisionTransformer, cat: bytes, espresso: bytes
) -> None:
    query = {"pool": "patches", "size": "140x98"}
    tokens = array(client.post("/embed", params=query, files=[("image", cat), ("image", espresso)]))
    assert tokens.shape == (2, 10, 7, 384)
    for row, data in enumerate((cat, espresso)):
        expected = by_hand(data, checkpoint, network, (140, 98)).patches
        assert expected is not None
        assert_equal_in_float32(tokens[row], expected[0])
    unit = array(client.post("/embed", params=query | {"normalize": "true"}, content=cat))
    assert np.linalg.norm(unit, axis=-1) == pytest.approx(1, abs=1e-6)
    assert_equal_in_float32(
        tokens[:1].mean((1, 2)), array(client.post("/embed?pool=mean&size=140x98", content=cat, headers=NPY))
    )


def test_patch_tokens_of_unequal_grids_are_refused(client: httpx.Client, cat: bytes, phone_picture: bytes) -> None:
    files = [("image", cat), ("image", phone_picture)]
    refused = client.post("/embed?pool=patches&resize=fit", files=files)
    assert (refused.status_code, refused.json()["code"]) == (422, "unequal_grids")
    assert array(client.post("/embed?pool=patches&resize=crop", files=files)).shape == (2, 8, 8, 384)
    many = client.post("/embed?pool=patches&size=896", json={"images": ["AAAA"] * 64})
    assert (many.status_code, many.json()["code"]) == (422, "too_many_tokens")


@pytest.fixture
def without_cls(tmp_path: Path) -> Path:
    """The default model without its [CLS] token."""
    folder = tmp_path / "headless"
    folder.mkdir()
    weights = load_file(MODEL / "model.safetensors")
    del weights["cls_token"]
    weights["pos_embed"] = weights["pos_embed"][:, -37 * 37 :]
    save_file(weights, folder / "model.safetensors")
    config = json.loads((MODEL / "config.json").read_text())
    config["model_args"] = config.get("model_args", {}) | {"class_token": False, "global_pool": "avg"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_model_without_a_class_token_has_no_attention(tmp_path: Path, without_cls: Path, cat: bytes) -> None:
    with serving(tmp_path / "log", model=without_cls) as server:
        refused = httpx.post(f"{server.url}/attention", content=cat)
        assert (refused.status_code, refused.json()["code"]) == (409, "no_cls_token")
        assert httpx.post(f"{server.url}/preprocess", content=cat).status_code == 200
        assert array(httpx.post(f"{server.url}/embed?pool=patches", content=cat)).shape == (1, 8, 8, 384)
