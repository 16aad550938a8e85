"""The HTTP API of a real server process."""

import base64
import io
import json
import re
from typing import Any, cast

import httpx
import numpy as np
import pytest
from PIL import Image

from app.pictures.decode import Limits, decode, to_network
from app.settings import FORMATS
from models.checkpoints.checkpoint import Checkpoint
from models.network.vit import Features, VisionTransformer
from models.preprocess import Resize
from tests.bounds import assert_equal_in_float32


def by_hand(
    data: bytes,
    checkpoint: Checkpoint,
    network: VisionTransformer,
    size: Any = None,
    resize: Resize | None = None,
    max_patches: int | None = None,
) -> Features:
    """Run the network on the same pixels, without the service."""
    import torch

    preprocess = checkpoint.content.preprocess
    picture = decode(data, Limits(FORMATS, 50_000_000))
    plan = preprocess.plan(picture.size, checkpoint.content.config.patch_size, size, resize, max_patches)
    pixels = torch.from_numpy(to_network(picture, plan, preprocess.interpolation)).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    with torch.inference_mode():
        features: Features = network([(pixels - mean) / std])
    return features


def array(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-npy"
    return np.load(io.BytesIO(response.content), allow_pickle=False)


NPY = {"Accept": "application/x-npy"}


def test_a_photograph_is_classified(client: httpx.Client, cat: bytes) -> None:
    answer = client.post("/classify", files={"image": ("cat.png", cat)}).json()
    assert (answer["model"], answer["activation"], answer["failed"]) == ("vit-small-tiny-imagenet", "softmax", 0)
    (result,) = answer["results"]
    assert result["predictions"][0]["label"] == "Egyptian cat"
    assert len(result["predictions"]) == 5
    scores = [prediction["score"] for prediction in result["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert result["image"] == {"width": 451, "height": 300, "format": "PNG"}
    assert result["network"] == {"width": 112, "height": 112, "resize": "crop", "tokens": 65, "interpolated": True}


VIEWS: dict[str, tuple[dict[str, str], Any, Resize | None]] = {
    "own": ({}, None, None),
    "70": ({"size": "70"}, (70, 70), None),
    "98": ({"size": "98"}, (98, 98), None),
    "224": ({"size": "224"}, (224, 224), None),
    "518, the table's own": ({"size": "518"}, (518, 518), None),
    "140x98": ({"size": "140x98"}, (140, 98), None),
    "fit": ({"resize": "fit"}, None, "fit"),
    "squash at 140x98": ({"size": "140x98", "resize": "squash"}, (140, 98), "squash"),
    "crop at 56": ({"size": "56", "resize": "crop"}, (56, 56), "crop"),
}


@pytest.mark.parametrize(("query", "size", "resize"), VIEWS.values(), ids=VIEWS.keys())
def test_every_resolution_gives_the_answers_of_the_by_hand(
    client: httpx.Client,
    checkpoint: Checkpoint,
    network: VisionTransformer,
    espresso: bytes,
    query: Any,
    size: Any,
    resize: Any,
) -> None:
    expected = by_hand(espresso, checkpoint, network, size, resize)
    assert expected.logits is not None
    for pool in ("cls", "mean", "native"):
        vectors = array(client.post("/embed", params=query | {"pool": pool}, content=espresso, headers=NPY))
        assert_equal_in_float32(vectors, getattr(expected, pool))
    probabilities = array(client.post("/classify", params=query, content=espresso, headers=NPY))
    assert_equal_in_float32(probabilities, expected.logits.softmax(1))
    described = client.post("/classify", params=query, content=espresso).json()["results"][0]["network"]
    assert described["interpolated"] == (query.get("size") != "518")


def test_all_ways_of_uploading_give_the_same_answer(client: httpx.Client, cat: bytes) -> None:
    text = base64.b64encode(cat).decode()
    responses = [
        client.post("/embed", files={"image": ("a.png", cat, "image/png")}),
        client.post("/embed", files={"photo": ("../../etc/passwd", cat, "text/plain")}),
        client.post("/embed", files={"image": (None, cat)}),
        client.post("/embed", content=cat),
        client.post("/embed", content=cat, headers={"Content-Type": "image/jpeg"}),
        client.post("/embed", content=cat, headers={"Content-Type": "application/x-www-form-urlencoded"}),
        client.post("/embed", content=iter([cat[:1000], cat[1000:]])),
        client.post("/embed", json={"images": [text]}),
        client.post("/embed", json={"images": [f"data:image/png;base64,{text}"]}),
    ]
    assert [response.status_code for response in responses] == [200] * len(responses)
    assert len({response.text for response in responses}) == 1


def test_difficult_photographs(client: httpx.Client, cat: bytes, espresso: bytes, phone_picture: bytes) -> None:
    with Image.open(io.BytesIO(cat)) as image:
        transparent = image.convert("RGBA")
    file = io.BytesIO()
    transparent.save(file, "PNG")
    for data, label in ((phone_picture, "espresso"), (espresso, "espresso"), (file.getvalue(), "Egyptian cat")):
        answer = client.post("/classify", content=data).json()
        assert answer["results"][0]["predictions"][0]["label"] == label
    assert client.post("/classify", content=phone_picture).json()["results"][0]["image"]["height"] == 4032


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (0, 200), (500, 200)])
def test_top_k(client: httpx.Client, cat: bytes, top_k: int, count: int) -> None:
    (result,) = client.post("/classify", params={"top_k": top_k}, content=cat).json()["results"]
    assert len(result["predictions"]) == count
    if count == 200:
        assert sorted(p["index"] for p in result["predictions"]) == list(range(200))
        assert sum(p["score"] for p in result["predictions"]) == pytest.approx(1, abs=1e-5)


def test_embeddings_in_every_encoding_are_the_same_numbers(client: httpx.Client, cat: bytes) -> None:
    as_floats = client.post("/embed", content=cat).json()
    assert as_floats["dim"] == 384
    as_npy = array(client.post("/embed", content=cat, headers=NPY))
    assert as_npy.shape == (1, 384)
    assert as_npy.dtype == np.float32
    (text,) = (r["embedding"] for r in client.post("/embed?encoding=base64", content=cat).json()["results"])
    assert np.array_equal(np.frombuffer(base64.b64decode(text), "<f4"), as_npy[0])
    assert np.array_equal(np.array(as_floats["results"][0]["embedding"], np.float32), as_npy[0])


def test_normalised_vectors_have_length_one(client: httpx.Client, cat: bytes) -> None:
    plain = array(client.post("/embed", content=cat, headers=NPY))
    unit = array(client.post("/embed?normalize=true", content=cat, headers=NPY))
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    assert_equal_in_float32(unit, plain / np.linalg.norm(plain))


def test_several_images_are_answered_in_order(client: httpx.Client, cat: bytes, espresso: bytes) -> None:
    files = [("image", cat), ("image", espresso), ("image", cat)]
    results = client.post("/classify", files=files).json()["results"]
    labels = [result["predictions"][0]["label"] for result in results]
    assert labels == ["Egyptian cat", "espresso", "Egyptian cat"]
    assert array(client.post("/classify", files=files, headers=NPY)).shape == (3, 200)


def test_a_bad_image_among_good_ones_fails_alone(client: httpx.Client, cat: bytes, espresso: bytes) -> None:
    alone = [client.post("/embed", content=data).json()["results"][0] for data in (cat, espresso)]
    files = [("image", cat), ("image", b"no image"), ("image", b""), ("image", espresso)]
    response = client.post("/embed", files=files)
    assert response.status_code == 200
    answer = response.json()
    assert answer["failed"] == 2
    for together, separate in zip([answer["results"][0], answer["results"][3]], alone, strict=True):
        assert_equal_in_float32(np.array(together.pop("embedding")), np.array(separate.pop("embedding")))
        assert together == separate
    assert answer["results"][1]["error"]["code"] == "not_an_image"
    assert answer["results"][2]["error"]["code"] == "empty_image"
    as_npy = client.post("/embed", files=files, headers=NPY)
    assert (as_npy.status_code, as_npy.json()["code"]) == (415, "not_an_image")
    assert "image 1" in as_npy.json()["detail"]


def test_if_all_images_fail_the_response_has_the_first_ones_status(client: httpx.Client) -> None:
    response = client.post("/embed", json={"images": ["AAAA", "!"]})
    assert (response.status_code, response.json()["code"]) == (415, "not_an_image")
    assert [(e["index"], e["code"]) for e in response.json()["errors"]] == [(0, "not_an_image"), (1, "bad_base64")]


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nhello\r\n'
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "an empty body": ({"content": b""}, 400, "no_image"),
    "no part": ({"content": b"--b--\r\n", "headers": FORM}, 400, "no_image"),
    "no closing boundary": ({"content": PART, "headers": FORM}, 400, "malformed_body"),
    "no boundary": ({"content": PART, "headers": {"Content-Type": "multipart/form-data"}}, 400, "malformed_body"),
    "another multipart type": (
        {"content": PART, "headers": {"Content-Type": "multipart/mixed; boundary=b"}},
        400,
        "malformed_body",
    ),
    "an empty part": ({"files": {"image": b""}}, 400, "empty_image"),
    "a text part": ({"files": {"image": b"x"}, "data": {"size": "224"}}, 422, "unknown_parameter"),
    "no json": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed_body"),
    "a json list": ({"json": []}, 400, "malformed_body"),
    "json without images": ({"json": {"images": []}}, 400, "no_image"),
    "an unknown member": ({"json": {"images": ["AAAA"], "size": 224}}, 422, "unknown_parameter"),
    "a url": ({"json": {"images": ["http://localhost/a.png"]}}, 422, "bad_base64"),
    "too many images": ({"json": {"images": ["AAAA"] * 65}}, 413, "too_many_images"),
    "too many parts": ({"files": [("image", b"x")] * 65}, 413, "too_many_images"),
    "text": ({"content": b"hello"}, 415, "not_an_image"),
    "an unknown parameter": ({"params": {"top": "1"}, "content": b"x"}, 422, "unknown_parameter"),
    "a negative top_k": ({"params": {"top_k": "-1"}, "content": b"x"}, 422, "invalid_parameter"),
    "a size of nothing": ({"params": {"size": "0"}, "content": b"x"}, 422, "invalid_parameter"),
    "a size of words": ({"params": {"size": "large"}, "content": b"x"}, 422, "invalid_parameter"),
    "an unknown resize": ({"params": {"resize": "stretch"}, "content": b"x"}, 422, "invalid_parameter"),
    "no patches": ({"params": {"max_patches": "0"}, "content": b"x"}, 422, "invalid_parameter"),
    "a size and a number of patches": ({"params": {"size": "70", "max_patches": "9"}}, 422, "invalid_parameter"),
    "resize and a number of patches": ({"params": {"resize": "fit", "max_patches": "9"}}, 422, "invalid_parameter"),
    "too many patches": ({"params": {"max_patches": "5000"}, "content": b"x"}, 422, "too_many_tokens"),
    "too large a size": ({"params": {"size": "2000"}, "content": b"x"}, 422, "too_many_tokens"),
}


@pytest.mark.parametrize(("request_", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_errors_say_what_is_wrong(client: httpx.Client, request_: dict[str, Any], status: int, code: str) -> None:
    response = client.post("/classify", **request_)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:vitrine:problem:{code}"
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(problem["detail"]) > 10
    assert not re.search(r"0x[0-9a-f]{4}|Traceback|\.py\b|site-packages", response.text)


def test_an_image_that_resizing_would_make_huge_is_rejected(client: httpx.Client) -> None:
    file = io.BytesIO()
    Image.new("RGB", (20_000, 1)).save(file, "PNG")
    response = client.post("/classify", content=file.getvalue())
    assert (response.status_code, response.json()["code"]) == (422, "crop_too_large")
    assert "at most 16000000 pixels are allowed before the crop" in response.json()["detail"]
    assert client.post("/classify?resize=fit", content=file.getvalue()).status_code == 200


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    for response, status, code in (
        (client.get("/nothing"), 404, "not_found"),
        (client.get("/classify"), 405, "method_not_allowed"),
    ):
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"] == response.json()["request_id"]


def test_request_ids(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "mine.1_2-3"}).headers["x-request-id"] == "mine.1_2-3"
    for bad in ("with space", "a" * 65, ""):
        given = client.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert given != bad
        assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_timings(client: httpx.Client, cat: bytes) -> None:
    timing = client.post("/classify", content=cat).headers["server-timing"]
    assert re.fullmatch(
        r"receive;dur=[\d.]+, decode;dur=[\d.]+, queue;dur=[\d.]+, forward;dur=[\d.]+, total;dur=[\d.]+", timing
    )
    assert re.fullmatch(r"total;dur=[\d.]+", client.get("/healthz").headers["server-timing"])


def test_a_number_of_patches_keeps_the_shape_of_the_image(
    client: httpx.Client, checkpoint: Checkpoint, network: VisionTransformer, espresso: bytes, cat: bytes
) -> None:
    result = client.post("/classify?max_patches=40", content=cat).json()["results"][0]
    assert result["network"] == {"width": 112, "height": 70, "resize": "fit", "tokens": 41, "interpolated": True}
    described = client.post("/preprocess?max_patches=40&output=json", content=cat).json()["results"][0]
    assert described["network"] == result["network"]
    vectors = array(client.post("/embed?max_patches=40", files=[("image", cat), ("image", espresso)], headers=NPY))
    for data, vector in zip((cat, espresso), vectors, strict=True):
        assert_equal_in_float32(vector, cast(Any, by_hand(data, checkpoint, network, max_patches=40).cls)[0])
    grid = client.post("/attention?max_patches=40&output=json", content=cat).json()["results"][0]["grid"]
    assert grid == [5, 8]


def test_fingerprints_are_equal_only_for_comparable_vectors(client: httpx.Client, cat: bytes, espresso: bytes) -> None:
    def fingerprint(data: bytes, **query: str) -> str:
        return client.post("/embed", params=query, content=data).headers["vitrine-fingerprint"]

    own = fingerprint(cat)
    assert own == fingerprint(espresso)
    assert own == fingerprint(cat, size="112") == fingerprint(cat, size="113") == fingerprint(cat, pool="cls")
    others = {
        fingerprint(cat, **q)
        for q in (
            {"size": "126"},
            {"resize": "fit"},
            {"max_patches": "81"},
            {"size": f"14x{81 * 14}"},
            {"pool": "mean"},
            {"normalize": "true"},
        )
    }
    assert len(others | {own}) == 7


def test_the_model_describes_itself(client: httpx.Client) -> None:
    model = client.get("/model").json()
    assert (model["name"], model["layout"], model["profile"]) == ("vit-small-tiny-imagenet", "timm", "timm")
    assert (model["depth"], model["width"], model["heads"], model["classes"]) == (12, 384, 6, 200)
    assert (model["patch"], model["input_size"], model["table_grid"]) == ([14, 14], [112, 112], [37, 37])
    assert model["parameters"] > 22_000_000
    assert model["device"] in ("cpu", "cuda")
    assert len(model["labels"]) == 200
    assert model["limits"]["max_tokens_per_image"] == 4096


def test_the_document_states_the_contract(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    answers = {
        "/classify": {"application/json", "application/x-npy"},
        "/embed": {"application/json", "application/x-npy"},
        "/attention": {"application/json", "application/x-npy", "image/png"},
        "/preprocess": {"application/json", "image/png"},
    }
    for path, media_types in answers.items():
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/json"}
        assert {"200", "400", "408", "409", "413", "415", "422", "500", "503", "504"} <= set(operation["responses"])
        assert set(operation["responses"]["200"]["content"]) == media_types
        for status, response in operation["responses"].items():
            if status != "200":
                assert set(response["content"]) == {"application/problem+json"}
                assert response["content"]["application/problem+json"]["examples"]
        parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
        assert {"size", "resize", "max_patches"} <= set(parameters)
    assert json.dumps(document).count("#/components/schemas/Problem")
    assert "Problem" in document["components"]["schemas"]


def undescribed(name: str, node: Any) -> list[str]:
    """Return the schema members in a part of the document that have no description."""
    if isinstance(node, list):
        return [found for item in node for found in undescribed(name, item)]
    if not isinstance(node, dict):
        return []
    members = node.get("properties")
    found = [
        f"{name}.{member}"
        for member, schema in (members.items() if isinstance(members, dict) else ())
        if not {"description", "$ref", "const"} & set(schema)  # a reference is described by what it refers to
    ]
    return found + [more for key, value in node.items() for more in undescribed(f"{name}.{key}", value)]


def test_the_document_explains_every_endpoint_parameter_and_member(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path, item in document["paths"].items():
        for operation in item.values():
            assert operation["summary"], path
            assert operation["description"].endswith("."), path
            assert all(parameter.get("description") for parameter in operation.get("parameters", ())), path
            assert undescribed(path, operation) == []
    schemas = document["components"]["schemas"]
    assert undescribed("schemas", schemas) == []
    assert all(schema.get("description") for schema in schemas.values())
    assert not [name for name in schemas if "__" in name]  # two schemas of one name get the names of their modules


def test_the_documentation_page_needs_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert "http" not in re.sub(r'"http[^"]*oauth2-redirect[^"]*"', "", page.text.replace(str(client.base_url), ""))
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert client.get(asset).status_code == 200
