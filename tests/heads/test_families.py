"""A head can be fitted on every family of checkpoints, with classes of its own or without, and classifies with it."""

from pathlib import Path

import numpy as np
import pytest

from app.heads.examples import labelled
from app.heads.fit import fit
from app.inference.engine import Engine
from app.inference.jobs import Ranking
from app.pictures.prepared import Resolution
from app.service.classes import fits, fitted_classes, space_of, vector_task
from models.checkpoints.checkpoint import open_checkpoint
from tests.checkpoints.families import FAMILIES
from tests.checkpoints.original import Family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_head_of_every_family(family: Family, tmp_path: Path) -> None:
    original = family.make(tmp_path)
    engine = Engine(open_checkpoint(str(original.path), **original.options), "cpu", "float32")
    random = np.random.default_rng(0)
    size = engine.network_size()
    dark = [random.integers(0, 60, (3, *size), dtype=np.uint8) for _ in range(3)]
    bright = [random.integers(190, 255, (3, *size), dtype=np.uint8) for _ in range(3)]
    task = vector_task(engine, None)
    vectors = engine.run([job for pixels in (*dark, *bright) for job in task.jobs_for(pixels)])
    rows = np.stack([np.asarray(vector) for vector in vectors])
    names, digests = [""] * 5, [""] * 5
    examples = labelled(rows[:5], ["dark"] * 3 + ["bright"] * 2, names, digests)
    head, _ = fit(examples, space_of(engine, None, Resolution()))
    assert fits(engine, head.space)
    classes = fitted_classes(engine, head, "light", Resolution(), 1)
    ranking = classes.read(engine.run(classes.task.jobs_for(bright[2]))[0])
    assert isinstance(ranking, Ranking)
    assert ranking.named(classes.names)[0]["label"] == "bright"
