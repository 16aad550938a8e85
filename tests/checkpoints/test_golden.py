"""The golden answer: the default model gives it, and a model that does not give its golden answer does not start."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.inference.engine import Engine
from app.inference.jobs import OutputInvalid
from app.inference.warm_up import warm_up
from models.checkpoints.checkpoint import Checkpoint, open_checkpoint
from models.checkpoints.golden import FILE, Golden, picture, read_golden
from models.errors import CheckpointBroken
from tests.bounds import assert_equal_in_float32
from tests.conftest import MODEL

FINGERPRINT = "2e11441e1318302753581762"


def test_the_golden_answer_equals_timms(original: Any, checkpoint: Checkpoint) -> None:
    golden = read_golden(MODEL)
    assert golden is not None
    preprocess = checkpoint.content.preprocess
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    image = (torch.from_numpy(picture(*preprocess.input_size)).float() / 255 - mean) / std
    with torch.inference_mode():
        tokens = original.forward_features(image[None])
        assert_equal_in_float32(golden.cls, tokens[0, 0])
        assert golden.top_1 == int(original.forward_head(tokens).argmax())


def test_a_model_with_another_answer_does_not_start(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(MODEL, folder)
    golden = json.loads((folder / FILE).read_text())
    golden["cls"] = list(np.roll(golden["cls"], 1))
    (folder / FILE).write_text(json.dumps(golden))
    with pytest.raises(OutputInvalid, match="does not answer as"):
        warm_up(Engine(open_checkpoint(str(folder)), "cpu", "float32"))


def test_bfloat16_gives_the_golden_answer(checkpoint: Checkpoint) -> None:
    warm_up(Engine(checkpoint, "cpu", "bfloat16"))


def test_8_bits_may_differ_by_more_but_not_by_much() -> None:
    """The last place of half precision decides which of 256 numbers an input is rounded to."""
    golden = Golden(np.array([1, 0, 0], np.float32), top_1=4)
    rounded, other = np.array([1, 0.1, 0], np.float32), np.array([1, 0.2, 0], np.float32)
    assert golden.matches(rounded, 5, int8=True)
    assert not golden.matches(rounded, 4)
    assert not golden.matches(golden.cls, 5)
    assert not golden.matches(other, 4, int8=True)


def test_the_error_names_an_invalid_golden_answer(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(CheckpointBroken, match=FILE):
        read_golden(tmp_path)


def test_the_fingerprint_of_the_default_model_does_not_change(checkpoint: Checkpoint) -> None:
    """Clients store it with their vectors, so it may only change with the answers, not with names in the code."""
    assert Engine(checkpoint, "cpu", "float32").fingerprint == FINGERPRINT
