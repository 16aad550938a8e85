"""POST /features, compared with numpy on the tokens that the service answers."""

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.api.test_api import NPY, array
from tests.bounds import assert_equal_in_float32

SIZE = {"size": "224"}


def tokens(client: httpx.Client, *files: bytes, **query: Any) -> Any:
    """Return the patch tokens of each image (n, h, w, D)."""
    parts = [("image", file) for file in files]
    return array(client.post("/embed", params={"pool": "patches"} | query, files=parts, headers=NPY))


def ask(client: httpx.Client, *files: bytes, **query: Any) -> Any:
    response = client.post("/features", params={"format": "json"} | query, files=[("image", file) for file in files])
    assert response.status_code == 200, response.text
    return response.json()


def components(rows: Any, count: int) -> Any:
    """Return the coordinates of rows (n, D) by numpy's SVD, each axis with its largest loading positive."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:count]
    return centred @ (axes * np.sign(axes[range(count), np.abs(axes).argmax(1)])[:, None]).T


def picture(result: Any) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(result["picture"].split(",")[1]))))


def test_components_are_those_of_numpy(client: httpx.Client, cat: bytes) -> None:
    """At 16 x 16 patches there are fewer patches than dimensions, at 22 x 22 more."""
    for size in ("224", "308"):
        answer = ask(client, cat, size=size, components=5)
        rows = tokens(client, cat, size=size)[0]
        expected = components(rows.reshape(-1, rows.shape[-1]), 5)
        found = np.array(answer["results"][0]["components"])
        assert found.shape == (*rows.shape[:2], 5)
        np.testing.assert_allclose(found.reshape(-1, 5), expected, atol=1e-4 * np.abs(expected).max())
        variance = np.var(rows.reshape(-1, rows.shape[-1]).astype(np.float64), axis=0).sum()
        np.testing.assert_allclose(answer["explained"], expected.var(0) / variance, rtol=1e-4)
        assert answer["layer"] == 11
        assert answer["results"][0]["grid"] == list(rows.shape[:2])


def square(data: bytes) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as photo:
        photo.crop((0, 0, photo.height, photo.height)).save(file, "PNG")
    return file.getvalue()


def test_images_share_one_basis_and_their_colours(client: httpx.Client, cat: bytes, espresso: bytes) -> None:
    """The same picture twice has the same colours in both places, and images of different shapes share axes."""
    espresso = square(espresso)
    first, second, third = ask(client, cat, espresso, cat, resize="fit", **SIZE)["results"]
    assert first["components"] == third["components"]
    assert first["grid"] != second["grid"]
    a, b = tokens(client, cat, resize="fit", **SIZE)[0], tokens(client, espresso, resize="fit", **SIZE)[0]
    rows = [image.reshape(-1, image.shape[-1]) for image in (a, b, a)]
    expected = components(np.concatenate(rows), 3)
    found = np.concatenate([np.array(one["components"]).reshape(-1, 3) for one in (first, second, third)])
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    low, high = np.percentile(expected, (1, 99), axis=0)
    colours = 255 * ((expected - low) / (high - low)).clip(0, 1)
    shown = np.concatenate([picture(one)[..., :3].reshape(-1, 3) for one in (first, second, third)])
    assert np.abs(shown - colours).max() <= 1  # rounding
    alone = ask(client, espresso, resize="fit", **SIZE)["results"][0]
    assert alone["components"] != second["components"]


def test_a_mask_leaves_one_side_of_the_first_component_out(client: httpx.Client, espresso: bytes) -> None:
    rows = tokens(client, espresso, **SIZE)[0]
    flat = rows.reshape(-1, rows.shape[-1])
    first = components(flat, 1)[:, 0]
    for mask, kept in (("positive", first > 0), ("negative", first < 0)):
        (result,) = ask(client, espresso, mask=mask, **SIZE)["results"]
        assert (np.array(result["foreground"]).ravel() == kept).all()
        expected = components(flat[kept], 3)
        found = np.array(result["components"]).reshape(-1, 3)[kept]
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        assert ((picture(result)[..., 3] == 255).ravel() == kept).all()


def test_similarity_is_the_cosine_to_a_patch_of_the_first_image(
    client: httpx.Client, cat: bytes, espresso: bytes
) -> None:
    answer = ask(client, cat, espresso, output="similarity", patch="3,12", **SIZE)
    assert answer["patch"] == [3, 12]
    units = [image / np.linalg.norm(image, axis=-1, keepdims=True) for image in tokens(client, cat, espresso, **SIZE)]
    for result, image in zip(answer["results"], units, strict=True):
        np.testing.assert_allclose(result["similarity"], image @ units[0][3, 12], atol=1e-5)
    assert answer["results"][0]["similarity"][3][12] == pytest.approx(1)
    query = {"output": "similarity", "patch": "3,12"} | SIZE
    found = array(client.post("/features", params=query, content=cat, headers=NPY))
    np.testing.assert_allclose(found[0], answer["results"][0]["similarity"], atol=1e-6)


@pytest.mark.parametrize("query", [{}, {"output": "similarity", "patch": "2,3"}], ids=["pca", "similarity"])
def test_a_png_shows_one_image(client: httpx.Client, cat: bytes, espresso: bytes, query: dict[str, str]) -> None:
    drawn = set()
    for form in ("map", "overlay"):
        response = client.post("/features", params=query | {"format": form}, content=cat)
        assert response.headers["content-type"] == "image/png"
        assert "width=112" in response.headers["vitrine-network"]
        with Image.open(io.BytesIO(response.content)) as png:
            assert png.size == (448, 448)
        drawn.add(response.content)
    assert len(drawn) == 2
    refused = client.post("/features", params=query, files=[("image", cat), ("image", espresso)])
    assert refused.json()["code"] == "too_many_images"


def test_the_png_has_the_colours_of_the_patches(client: httpx.Client, cat: bytes) -> None:
    (result,) = ask(client, cat)["results"]
    png = np.asarray(Image.open(io.BytesIO(client.post("/features", content=cat).content)))
    assert (png[28::56, 28::56] == picture(result)[..., :3]).all()
    one = np.asarray(Image.open(io.BytesIO(client.post("/features?components=1", content=cat).content)))
    assert (one == one[..., :1]).all()


def test_tokens_are_those_of_embed_and_of_chosen_layers(client: httpx.Client, cat: bytes) -> None:
    plain = client.post("/features?output=tokens", content=cat)
    embedded = client.post("/embed?pool=patches", content=cat, headers=NPY)
    assert_equal_in_float32(array(plain), array(embedded))
    assert plain.headers["vitrine-fingerprint"] == embedded.headers["vitrine-fingerprint"]
    several = client.post("/features?output=tokens&layers=3,11", content=cat)
    assert array(several).shape == (1, 2, 8, 8, 384)
    assert_equal_in_float32(array(several)[:, 1], array(plain))
    assert several.headers["vitrine-fingerprint"] != plain.headers["vitrine-fingerprint"]
    rows = array(client.post("/features?output=tokens&prefix=true", content=cat))
    assert rows.shape == (1, 65, 384)
    assert_equal_in_float32(rows[:, 1:].reshape(1, 8, 8, 384), array(plain))
    raw = array(client.post("/features?output=tokens&norm=false", content=cat))
    assert np.abs(raw - array(plain)).max() > 0.1


def test_components_of_an_earlier_layer(client: httpx.Client, cat: bytes) -> None:
    rows = array(client.post("/features?output=tokens&layers=5", content=cat))[0, 0]
    answer = ask(client, cat, layers="5")
    expected = components(rows.reshape(64, -1), 3)
    found = np.array(answer["results"][0]["components"]).reshape(64, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert answer["layer"] == 5


def test_tokens_beside_the_components(client: httpx.Client, cat: bytes) -> None:
    (result,) = ask(client, cat, with_tokens="true")["results"]
    found = np.frombuffer(base64.b64decode(result["tokens"]), "<f2").reshape(8, 8, 384).astype(np.float32)
    rows = tokens(client, cat)[0]
    np.testing.assert_allclose(found, rows / np.linalg.norm(rows, axis=-1, keepdims=True), atol=1e-3)


def test_a_bad_image_does_not_change_the_others(client: httpx.Client, cat: bytes) -> None:
    answer = ask(client, cat, b"no image")
    assert answer["failed"] == 1
    assert answer["results"][1]["error"]["code"] == "not_an_image"
    assert answer["results"][0]["components"] == ask(client, cat)["results"][0]["components"]
    refused = client.post(
        "/features?output=similarity&patch=1,1&format=json", files=[("image", b"no image"), ("image", cat)]
    )
    assert refused.json()["code"] == "not_an_image"


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("output=similarity", "must be given for output=similarity"),
        ("patch=1,2", "belongs to output=similarity"),
        ("output=similarity&patch=8,0", "the rows 0 to 7 and the columns 0 to 7"),
        ("output=similarity&patch=1", "must be ROW,COLUMN"),
        ("output=tokens&mask=positive", "belongs to output=pca"),
        ("output=tokens&format=json", "belongs to output=pca and output=similarity"),
        ("prefix=true", "belongs to output=tokens"),
        ("layers=12", "this model has layers 0 to 11"),
        ("layers=3,5", "must be one layer for output=pca"),
        ("output=tokens&layers=3,3", "must name each layer once"),
        ("components=17", "must be at most 16"),
        ("size=14", "1 patches of 384 numbers have at most 0 components"),
    ],
)
def test_a_wrong_parameter_is_told(client: httpx.Client, cat: bytes, query: str, detail: str) -> None:
    answer = client.post(f"/features?{query}", content=cat)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_parameter"
    assert detail in answer.json()["detail"]


def test_the_attention_of_all_heads(client: httpx.Client, cat: bytes) -> None:
    answer = client.post("/attention?head=all&layer=7&output=json", content=cat).json()
    (result,) = answer["results"]
    assert (answer["head"], result["grid"], np.shape(result["attention"])) == ("all", [8, 8], (6, 8, 8))
    for head in (0, 5):
        alone = client.post(f"/attention?head={head}&layer=7&output=json", content=cat).json()["results"][0]
        assert_equal_in_float32(result["attention"][head], alone["attention"])
    mean = client.post("/attention?layer=7&output=json", content=cat).json()["results"][0]["attention"]
    assert_equal_in_float32(np.mean(result["attention"], 0), mean)
    assert array(client.post("/attention?head=all", content=cat, headers=NPY)).shape == (1, 6, 8, 8)
    assert "a PNG shows one map" in client.post("/attention?head=all", content=cat).json()["detail"]
    assert client.post("/attention?head=all&method=rollout&output=json", content=cat).status_code == 422
