"""Labelled material for the tests of heads: vectors of a few classes, and pictures cut from the examples."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.heads.examples import Examples, labelled
from app.heads.head import Space
from tests.server import ROOT

SPACE = Space("model", "0123", "float32", "cls")
CLASSES = {"cat": "cat.png", "coffee": "espresso.jpg", "rocket": "rocket.jpg"}
"""Of the pictures: the classes and the example that each is cut from."""


def clusters(counts: Mapping[str, int], dim: int = 24, noise: float = 1.0, seed: int = 0) -> Examples:
    """Examples around a random centre for each class."""
    random = np.random.default_rng([seed, *counts.values()])
    rows: list[NDArray[np.float32]] = []
    classes: list[str] = []
    for number, (name, count) in enumerate(counts.items()):
        centre = np.random.default_rng([seed, number]).normal(size=dim)
        rows += [(centre + noise * random.normal(size=dim)).astype(np.float32) for _ in range(count)]
        classes += [name] * count
    names = [f"{place}.png" for place in range(len(rows))]
    return labelled(np.stack(rows), classes, names, [f"{place:032x}" for place in range(len(rows))])


def cut(name: str, count: int, first: int = 0) -> list[bytes]:
    """PNG files cut from an example, each at another place."""
    files = []
    with Image.open(ROOT / "examples" / CLASSES[name]) as example:
        picture = example.convert("RGB")
    side = min(picture.size) * 2 // 3
    for number in range(first, first + count):
        left = (number * 37) % (picture.width - side + 1)
        top = (number * 23) % (picture.height - side + 1)
        file = io.BytesIO()
        picture.crop((left, top, left + side, top + side)).resize((128, 128)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def write_folder(folder: Path, count: int, first: int = 0, classes: tuple[str, ...] = tuple(CLASSES)) -> Path:
    """A folder with a folder of pictures for each class."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(cut(name, count, first)):
            (folder / name / f"{first + number}.png").write_bytes(file)
    return folder
