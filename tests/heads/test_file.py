"""The file of a head has all of it, and a damaged one is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from app.heads.file import head_bytes, is_fitted_head, read_head
from app.heads.fit import fit
from app.heads.head import METHODS, Method
from models.errors import CheckpointBroken, CheckpointNotFound
from tests.heads.labelled import SPACE, clusters


@pytest.mark.parametrize("method", METHODS)
def test_a_head_comes_back_as_it_was(tmp_path: Path, method: Method) -> None:
    head = replace(fit(clusters({"a": 5, "b ü": 7}), replace(SPACE, size=(112, 98)), method)[0], number=3)
    path = tmp_path / "head.safetensors"
    path.write_bytes(head_bytes(head))
    assert is_fitted_head(path)
    again = read_head(path)
    assert again.version == head.version
    assert again.version.startswith("3-")
    for name in ("space", "method", "temperature", "width", "strength", "calibrated", "quality", "created", "classes"):
        assert getattr(again, name) == getattr(head, name)
    assert (again.examples.names, again.examples.digests) == (head.examples.names, head.examples.digests)
    probe = clusters({"c": 4}, seed=3).vectors
    np.testing.assert_array_equal(again.probabilities(probe), head.probabilities(probe))
    assert again.distances(probe) == head.distances(probe)


def test_another_file_is_no_head(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    assert not is_fitted_head(path)
    with pytest.raises(CheckpointNotFound):
        read_head(path)
    path.write_bytes(b"no safetensors")
    assert not is_fitted_head(path)
    with pytest.raises(CheckpointBroken, match="not a readable file of a head"):
        read_head(path)
    save_file({"weight": np.zeros((2, 3), np.float32)}, path)
    assert not is_fitted_head(path)
    with pytest.raises(CheckpointBroken, match="not a head of this version"):
        read_head(path)


@pytest.mark.parametrize("name", ["weight", "bias", "centres", "reference", "vectors", "labels"])
def test_a_changed_array_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(head_bytes(fit(clusters({"a": 5, "b": 7}), SPACE)[0]))
    with safe_open(path, "numpy") as file:
        metadata, arrays = file.metadata(), {key: file.get_tensor(key).copy() for key in file.keys()}  # noqa: SIM118
    arrays[name].flat[0] += 1
    save_file(arrays, path, metadata)
    with pytest.raises(CheckpointBroken, match="damaged"):
        read_head(path)
    arrays[name] = arrays[name][:-1]
    save_file(arrays, path, metadata)
    with pytest.raises(CheckpointBroken, match="damaged"):
        read_head(path)
