"""Decoding: a reduced scale changes vectors by little, and the size of the network's input is bounded."""

import asyncio
import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app.errors import ImageProblem
from app.pictures import pool
from app.pictures.decode import VECTORISED, Limits, Picture, decode, to_network
from app.pictures.header import read_header
from app.pictures.pool import Decoder, Transform
from app.pictures.prepared import PreparedImage, Resolution
from app.settings import FORMATS, Settings
from models.checkpoints.checkpoint import Checkpoint
from models.network.vit import Readout, VisionTransformer
from tests.server import ROOT, serving

PHOTOS = sorted((ROOT / "examples").glob("*.jpg"))


def prepared(checkpoint: Checkpoint, data: bytes, decode: str, resolution: Resolution) -> PreparedImage:
    decoder = Decoder(Settings.model_validate({"decode": decode}), lambda _: None)
    content = checkpoint.content
    transform = Transform(content.preprocess, content.config.patch_size, resolution, rounded=True)
    try:
        (image,) = asyncio.run(decoder.prepare([data], transform))
    finally:
        decoder.stop()
    assert isinstance(image, PreparedImage)
    return image


@pytest.mark.parametrize(
    "resolution",
    [Resolution(), Resolution((70, 70)), Resolution((98, 140), "squash"), Resolution((112, 112), "fit")],
    ids=["own", "70", "squash", "fit"],
)
def test_fast_decoding_leaves_the_vectors_as_they_are(
    checkpoint: Checkpoint, network: VisionTransformer, phone_picture: bytes, resolution: Resolution
) -> None:
    mean, std = (torch.tensor(getattr(checkpoint.content.preprocess, name))[:, None, None] for name in ("mean", "std"))
    changed = 0
    for data in [phone_picture, *(Path(photo).read_bytes() for photo in PHOTOS)]:
        fast, exact = (prepared(checkpoint, data, decode, resolution) for decode in ("fast", "exact"))
        assert (fast.plan, fast.width, fast.height) == (exact.plan, exact.width, exact.height)
        changed += not (fast.pixels == exact.pixels).all()
        pixels = [(torch.from_numpy(image.pixels) / 255 - mean) / std for image in (fast, exact)]
        with torch.inference_mode():
            cls = network(pixels, Readout.CLS).cls
        assert cls is not None
        assert torch.nn.functional.cosine_similarity(cls[0], cls[1], dim=0) >= 0.999
    assert changed  # else the two modes did the same


@pytest.mark.parametrize(("dtype", "exact"), [("float32", True), ("bfloat16", False)])
def test_a_network_in_float32_gets_pillows_pixels(
    dtype: str, exact: bool, checkpoint: Checkpoint, espresso: bytes, tmp_path: Path
) -> None:
    """Also by default, of images that are not reduced: answers are those of the original library to the last places."""
    file = io.BytesIO()
    Image.open(io.BytesIO(espresso)).save(file, "PNG")
    picture = decode(file.getvalue(), Limits(("PNG",), 2**24))
    preprocess, patch = checkpoint.content.preprocess, checkpoint.content.config.patch_size
    expected = to_network(picture, preprocess.plan(picture.size, patch), preprocess.interpolation)
    with serving(tmp_path / "log", dtype=dtype) as server:
        answer = httpx.post(f"{server.url}/preprocess", content=file.getvalue(), timeout=60)
    with Image.open(io.BytesIO(answer.content)) as image:
        found = np.asarray(image).transpose(2, 0, 1)
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert np.array_equal(found, expected) == (exact or not VECTORISED)


@pytest.mark.parametrize(("width", "refused"), [(448, False), (8000, True)])
def test_an_image_that_becomes_too_many_tokens_is_refused(checkpoint: Checkpoint, width: int, refused: bool) -> None:
    """transformers' `shortest_edge` without a crop keeps the longer side, whatever its length."""
    preprocess = replace(checkpoint.content.preprocess, steps="edge")
    file = io.BytesIO()
    Image.new("RGB", (width, 224)).save(file, "PNG")
    patch = checkpoint.content.config.patch_size
    decoder = Decoder(Settings.model_validate({}), lambda _: None)
    try:
        (outcome,) = asyncio.run(
            decoder.prepare([file.getvalue()], Transform(preprocess, patch, Resolution(), max_patches=256))
        )
    finally:
        decoder.stop()
    if refused:
        assert isinstance(outcome, ImageProblem)
        assert outcome.code == "too_many_tokens"
    else:
        assert isinstance(outcome, PreparedImage)


@pytest.mark.parametrize(("first", "jobs", "most"), [(2**23, 4, 4), (1, 8, 1)], ids=["as it is", "less"])
def test_an_image_takes_the_memory_that_it_needs(
    first: int, jobs: int, most: int, checkpoint: Checkpoint, espresso: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four images with memory for one and a half: what is not sure to fit waits, and is decoded all the same."""
    needs = read_header(espresso, Limits(FORMATS, 2**24)).decode_bytes
    monkeypatch.setattr(pool, "FIRST_BYTES", first)
    monkeypatch.setattr(pool, "DECODE_MEMORY_BYTES", 2**30 if most > 1 else needs * 3 // 2)
    decoding = 0
    counted: list[int] = []
    submitted: list[tuple[Any, ...]] = []

    def watched(*args: Any) -> Picture:
        nonlocal decoding
        decoding += 1
        counted.append(decoding)
        time.sleep(0.05)
        picture = decode(*args)
        decoding -= 1
        return picture

    monkeypatch.setattr(pool, "decode", watched)
    decoder = Decoder(Settings.model_validate({"decode_threads": 4}), lambda _: None)
    submit = decoder._pool.submit

    def counting(*args: Any) -> Any:
        submitted.append(args)
        return submit(*args)

    monkeypatch.setattr(decoder._pool, "submit", counting)
    transform = Transform(checkpoint.content.preprocess, checkpoint.content.config.patch_size, Resolution())
    try:
        images = asyncio.run(decoder.prepare([espresso] * 4, transform))
    finally:
        decoder.stop()
    assert all(isinstance(image, PreparedImage) for image in images)
    assert len(submitted) == jobs
    assert (max(counted) > 1) == (most > 1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_is_decoded_in_one_piece(options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """After each piece the decoder would wait for Python's lock."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95, **options)
    assert len(file.getvalue()) > 2**17
    pieces: list[int] = []
    make = Image._getdecoder

    class Watched:
        def __init__(self, decoder: Any) -> None:
            self._decoder = decoder

        def decode(self, data: bytes) -> Any:
            pieces.append(len(data))
            return self._decoder.decode(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decoder, name)

    monkeypatch.setattr(Image, "_getdecoder", lambda *args: Watched(make(*args)))
    decode(file.getvalue(), Limits(FORMATS, 10**6))
    assert pieces[0] >= len(file.getvalue()) - 2
    assert len(pieces) <= 2
