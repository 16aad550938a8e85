"""What an image may cost: a request that needs too many tokens is told how much it may ask for."""

import asyncio
from dataclasses import replace

import pytest

from app.errors import Problem
from app.service import Engine, Resolution, Service
from app.settings import Settings
from app.telemetry.timings import Timings
from models.checkpoints.checkpoint import Checkpoint

TOO_MANY = {
    "a size": (
        Resolution((224, 224)),
        "size 224x224 needs 257 tokens; 101 are allowed, the largest square size is 140x140",
    ),
    "patches": (
        Resolution(max_patches=300),
        "max_patches 300 needs 301 tokens; 101 are allowed, so at most 100 patches",
    ),
    "the checkpoint's own patches": (
        Resolution(),
        "max_patches 256 needs 257 tokens; 101 are allowed, so at most 100 patches",
    ),
}


@pytest.mark.parametrize(("resolution", "sentence"), TOO_MANY.values(), ids=TOO_MANY.keys())
def test_too_many_tokens_are_refused_in_the_words_of_the_request(
    checkpoint: Checkpoint, resolution: Resolution, sentence: str
) -> None:
    preprocess = replace(checkpoint.content.preprocess, steps="fit", max_patches=256)  # as NaFlex checkpoints have it
    content = replace(checkpoint.content, preprocess=preprocess)
    engine = Engine(replace(checkpoint, content=content), "cpu", "float32")
    service = Service(Settings(max_tokens_per_image=101))
    with pytest.raises(Problem) as refused:
        asyncio.run(service.prepare(engine, [b""], resolution, Timings()))
    service.decoder.stop()
    assert (refused.value.code, refused.value.detail) == ("too_many_tokens", sentence)
