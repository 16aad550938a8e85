"""`vitrine quantize`, and a server that serves what it has written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.quantization import measure
from models.checkpoints.checkpoint import Checkpoint, open_checkpoint
from models.checkpoints.golden import picture
from models.layouts.quantized import Cost
from tests.bounds import LEAST_COSINE_TOGETHER
from tests.cli.test_cli import vitrine
from tests.deploy.packages import as_in_the_image
from tests.environment import environment
from tests.heads.labelled import write_folder
from tests.server import ROOT, Server, serving

MODEL = str(ROOT / "weights" / "vit-small-tiny-imagenet")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, one of them twice, and a file that is no picture."""
    folder = write_folder(tmp_path_factory.mktemp("photos"), 13)
    (folder / "cat" / "copy.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    (folder / "cat" / "broken.png").write_bytes(b"no picture")
    Image.fromarray(picture(90, 140).transpose(1, 2, 0)).save(folder / "cat" / "wide.png")
    return folder


@pytest.fixture(scope="module")
def printed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory that was written, and what the command has printed."""
    output = tmp_path_factory.mktemp("written") / "vit-int8"
    ended = vitrine("quantize", MODEL, "--pictures", str(photos), "-o", str(output), "--accept", torch_threads=2)
    assert ended.returncode == 0, ended.stderr
    assert "2 files have no picture that can be used, or that of another file" in ended.stderr
    return output, ended.stdout


@pytest.fixture(scope="module")
def written(printed: tuple[Path, str]) -> Checkpoint:
    return open_checkpoint(str(printed[0]))


@pytest.fixture(scope="module")
def int8(printed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("int8") / "log"
    with serving(log, model=printed[0], dtype="int8", decode="exact") as server:
        yield server


def test_it_prints_what_it_costs(printed: tuple[Path, str], written: Checkpoint) -> None:
    made = written.content.quantization
    assert made is not None
    own, larger = made.costs
    assert (own.size, own.pictures, larger.size, larger.pictures) == ((112, 112), 30, (168, 168), 8)
    assert own.cosine_least <= own.cosine_p1 <= own.cosine_median < 1
    assert own.cosine_median > 0.998
    assert own.same_class is not None
    lines = printed[1].splitlines()
    assert lines[0] == f"int8 in {len(made.layers)} of 48 linear layers"
    assert f"median {own.cosine_median:.5f}, same best class {own.same_class:.1%}" in printed[1]
    assert "against float32 on 8 pictures at 168 x 168" in printed[1]
    assert re.search(r"^one image here: [\d.]+ ms in int8, [\d.]+ ms in float32", printed[1], re.MULTILINE)
    assert lines[-1].endswith(f"serve it with vitrine serve --model {printed[0]}")


def test_it_says_how_it_was_made(written: Checkpoint, checkpoint: Checkpoint) -> None:
    made = written.content.quantization
    assert made is not None
    assert made.original == checkpoint.digest
    assert made.calibration.pictures == 10
    assert set(made.calibration.sizes) == {(84, 84), (112, 112), (168, 168)}
    assert set(made.layers) | set(made.left_out) == {
        f"blocks.{block}.{layer}" for block in range(12) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    assert written.golden is not None
    assert checkpoint.golden is not None
    assert written.golden.top_1 == checkpoint.golden.top_1


def test_the_server_says_what_it_serves(int8: Server, client: httpx.Client, written: Checkpoint) -> None:
    model, exact = httpx.get(f"{int8.url}/model").json(), client.get("/model").json()
    made = written.content.quantization
    assert made is not None
    assert (model["dtype"], exact["int8"], exact["quantization"]) == ("int8", None, None)
    assert model["int8"]["attention"] in {"bfloat16", "float32"}
    assert model["quantization"]["costs"][0]["cosine_median"] == made.costs[0].cosine_median
    assert model["fingerprint"] != exact["fingerprint"]
    assert (model["parameters"], model["labels"]) == (exact["parameters"] - 24 * 384, exact["labels"])  # layer scales
    log = int8.log.read_text()
    assert f"int8 in {len(made.layers)} of 48 linear layers; against float32 on 30 pictures" in log
    assert " in int8; threads:" in log
    faster = "int8: the linear layers take less time than in" if model["int8"]["faster"] else "int8 is not faster than"
    assert faster in log


def embed(url: str, data: bytes, **query: Any) -> Any:
    answer = httpx.post(f"{url}/embed", params=query, content=data, timeout=60)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["results"][0]["embedding"])


def cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("query", [{}, {"size": "70"}, {"size": "224"}, {"size": "140x98", "resize": "fit"}], ids=str)
def test_it_answers_near_float32(int8: Server, server: Server, cat: bytes, query: dict[str, str]) -> None:
    assert cosine(embed(int8.url, cat, **query), embed(server.url, cat, **query)) > 0.995
    best = [
        httpx.post(f"{url}/classify", params=query, content=cat, timeout=60).json()["results"][0]["predictions"][0]
        for url in (int8.url, server.url)
    ]
    assert best[0]["label"] == best[1]["label"]


def test_a_picture_gets_the_answer_that_it_gets_alone(int8: Server, photos: Path) -> None:
    files = [path.read_bytes() for path in sorted(photos.rglob("[0-9].png"))[:12]]
    alone = [embed(int8.url, data) for data in files]
    answer = httpx.post(f"{int8.url}/embed", files=[("image", data) for data in files], timeout=60)
    for result, by_itself in zip(answer.json()["results"], alone, strict=True):
        assert cosine(np.array(result["embedding"]), by_itself) >= LEAST_COSINE_TOGETHER


def test_a_processor_without_instructions_for_it_answers_the_same(
    printed: tuple[Path, str], int8: Server, cat: bytes, tmp_path: Path
) -> None:
    """oneDNN and torch are told that there is no more than AVX2."""
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    os.environ.update(limited)
    try:
        with serving(tmp_path / "log", model=printed[0], dtype="int8", decode="exact") as plain:
            found = embed(plain.url, cat)
            assert "linear layers: torch's own" in (tmp_path / "log").read_text()
    finally:
        for name in limited:
            del os.environ[name]
    assert cosine(found, embed(int8.url, cat)) >= 0.999


def test_the_image_has_all_that_8_bits_need(printed: tuple[Path, str]) -> None:
    ended = as_in_the_image("classify", "--top-k", "1", "--model", str(printed[0]), "examples/cat.png")
    assert "Egyptian cat" in ended.stdout, ended.stderr


def test_a_plain_checkpoint_in_int8_names_the_command() -> None:
    ended = vitrine("classify", str(ROOT / "examples" / "cat.png"), "--dtype", "int8")
    assert ended.returncode == 1
    assert "make one with: vitrine quantize CHECKPOINT --pictures FOLDER -o DIRECTORY" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dtype", "bfloat16"), "dtype 'bfloat16': the checkpoint is of 8 bits and is computed in int8"),
        (("--dtype", "auto", "--compile"), "compile: a network of int8 is not compiled"),
        (("--dtype", "int8", "--profile", "dinov2"), "keeps its profile"),
    ],
)
def test_what_it_cannot_be_is_refused(printed: tuple[Path, str], arguments: tuple[str, ...], message: str) -> None:
    ended = vitrine("classify", str(ROOT / "examples" / "cat.png"), "--model", str(printed[0]), *arguments)
    assert ended.returncode == 1
    assert message in ended.stderr


def test_inspect_and_convert(printed: tuple[Path, str], tmp_path: Path) -> None:
    shown = json.loads(vitrine("inspect", str(printed[0]), "--json").stdout)
    assert shown["quantization"]["costs"][0]["pictures"] == 30
    refused = vitrine("convert", str(printed[0]), str(tmp_path / "out"))
    assert "timm cannot express layers of 8 bits" in refused.stderr
    again = vitrine("quantize", str(printed[0]), "--pictures", str(ROOT / "examples"), "-o", str(tmp_path / "out"))
    assert "is of 8 bits already" in again.stderr


WITH_A_HIGH_BAR = """
from app.quantization import measure
from models.quantization import quantize

measure.MEDIAN = 1.0
# Which layers are left out does not matter here, and takes most of the time.
quantize.harms = lambda network, images, inputs, report: dict.fromkeys(inputs, 0.0)

from app.cli import main
main()
"""


def test_below_the_bar_nothing_is_written(photos: Path, tmp_path: Path) -> None:
    arguments = ["quantize", MODEL, "--pictures", str(photos), "-o", str(tmp_path / "out")]
    command = [sys.executable, "-c", WITH_A_HIGH_BAR, *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.search(r"out is not written: the median cosine is 0\.99\d+, and 1\.0 is the bar; --accept", ended.stderr)
    assert list(tmp_path.iterdir()) == []


def test_the_bar_is_also_of_classes() -> None:
    cost = Cost((1, 1), 9, 0.9, 0.9, 0.999, 0.97)
    assert measure.below_bar(cost) == "97.0% have the same best class, and 98% is the bar"
    assert measure.below_bar(Cost((1, 1), 9, 0.9, 0.9, 0.9985, None)) is None


def test_too_few_pictures_and_a_folder_with_files_are_refused(tmp_path: Path) -> None:
    few = vitrine("quantize", MODEL, "--pictures", str(ROOT / "examples"), "-o", str(tmp_path / "out"))
    assert "different pictures that can be read; at least 32 are needed" in few.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    full = vitrine("quantize", MODEL, "--pictures", str(ROOT / "examples"), "-o", str(tmp_path / "full"))
    assert "already exists and is not an empty directory" in full.stderr
