"""`vitrine features` in a process of its own."""

import io
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.bounds import assert_equal_in_float32
from tests.cli.test_cli import CAT, ESPRESSO, vitrine
from tests.server import ROOT


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)), np.int16)


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        (("--mask", "positive", "--size", "140"), {"mask": "positive", "size": "140"}),
        (("--patch", "2,5", "--overlay"), {"output": "similarity", "patch": "2,5", "format": "overlay"}),
    ],
    ids=["components", "similarity"],
)
def test_a_picture_is_the_servers(
    tmp_path: Path, client: httpx.Client, arguments: tuple[str, ...], query: dict[str, str]
) -> None:
    ended = vitrine("features", CAT, "-o", str(tmp_path / "drawn.png"), *arguments)
    assert ended.returncode == 0, ended.stderr
    served = client.post("/features", params=query, content=Path(CAT).read_bytes())
    ours, theirs = pixels((tmp_path / "drawn.png").read_bytes()), pixels(served.content)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2  # rounding of colours


def test_tokens_of_layers_are_written(tmp_path: Path, client: httpx.Client) -> None:
    ended = vitrine("features", ESPRESSO, "-o", str(tmp_path / "tokens.npy"), "--layers", "3,11", "--prefix")
    assert ended.returncode == 0, ended.stderr
    query = {"output": "tokens", "layers": "3,11", "prefix": "true"}
    served = client.post("/features", params=query, content=Path(ESPRESSO).read_bytes())
    assert_equal_in_float32(np.load(tmp_path / "tokens.npy"), np.load(io.BytesIO(served.content))[0])


def test_the_pictures_of_a_folder_share_one_basis(tmp_path: Path, client: httpx.Client) -> None:
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.png"):
        shutil.copy(CAT, folder / name)
    shutil.copy(ESPRESSO, folder / "c.jpg")
    ended = vitrine("features", "in", "-o", "out", "--sample", "3", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "wrote 3 pictures" in ended.stdout
    a, b, c = (tmp_path / "out/in" / name for name in ("a.png.png", "more/b.png.png", "c.jpg.png"))
    assert a.read_bytes() == b.read_bytes()
    files = [("image", path.read_bytes()) for path in (folder / "a.png", folder / "c.jpg", folder / "more/b.png")]
    results = client.post("/features?format=json", files=files).json()["results"]
    import base64

    for path, result in ((a, results[0]), (c, results[1])):
        shown = pixels(base64.b64decode(result["picture"].split(",")[1]))[..., :3]
        assert np.abs(pixels(path.read_bytes())[28::56, 28::56] - shown).max() <= 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((CAT, ESPRESSO, "-o", "out.png"), "name a folder"),
        ((CAT, "-o", "out", "--patch", "1,1"), "a patch is of one image"),
        ((CAT, "-o", "out.png", "--layers", "1,2"), "must be one layer"),
        ((CAT, "-o", "out.png", "--patch", "99,1"), "the rows 0 to 7"),
        ((str(ROOT / "examples"), "-o", str(ROOT / "examples/out")), "lies in"),
    ],
    ids=["several", "patch of a folder", "layers", "patch", "inside"],
)
def test_mistakes_are_told(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    ended = vitrine("features", *arguments, cwd=tmp_path)
    assert ended.returncode != 0
    assert named in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
