"""The vector of a request without `pool`: [CLS], or what the model's own library answers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.inference.engine import Engine
from app.inference.task import Task
from models.checkpoints.checkpoint import open_checkpoint
from models.network.vit import Readout
from models.preprocess import Pixels
from tests.checkpoints import timm_family
from tests.checkpoints.comparison import BAR
from tests.checkpoints.original import Original

WITHOUT_CLS = ["no [CLS], registers, norm after", "SigLIP, average", "SigLIP", "PE core G"]


@pytest.mark.parametrize("variant", WITHOUT_CLS)
def test_a_model_without_cls_answers_what_its_library_answers(variant: str, tmp_path: Path) -> None:
    original: Original = timm_family.VARIANTS[variant](tmp_path)
    engine = Engine(open_checkpoint(str(original.path)), "cpu", "float32")
    pixels: Pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    task = Task.vector(engine, None, normalize=False)
    (answer,) = engine.forward(task.jobs_for(pixels))
    images = engine._upload(task.jobs_for(pixels))()[0][None]
    expected = original.forward(images)["native"][0].numpy()
    assert task.readout is Readout.NATIVE
    assert len(expected) == engine.default_dim
    assert isinstance(answer, np.ndarray)
    assert np.abs(answer - expected).max() <= BAR * max(1, np.abs(expected).max())


def test_a_model_with_cls_answers_it(tmp_path: Path) -> None:
    make: Callable[[Path], Original] = timm_family.VARIANTS["plain"]
    engine = Engine(open_checkpoint(str(make(tmp_path).path)), "cpu", "float32")
    assert Task.vector(engine, None, normalize=False).readout is Readout.CLS
    assert engine.default_dim == engine.config.embed_dim
