"""The command line in a process of its own."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.bounds import assert_equal_in_float32
from tests.environment import environment
from tests.server import ROOT

CAT, ESPRESSO = str(ROOT / "examples" / "cat.png"), str(ROOT / "examples" / "espresso.jpg")


def vitrine(*arguments: str, cwd: Path = ROOT, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *arguments]
    variables = environment(**settings) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_version() -> None:
    assert re.fullmatch(r"vitrine, version \d+\.\d+\.\d+\n", vitrine("--version").stdout)


def test_help_lists_a_commands_own_options_before_those_of_the_settings() -> None:
    text = vitrine("attend", "--help").stdout
    sections = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert sections == ["Options", "Model options", "Compute options", "Image options", "Logging options"]
    own = text.split("Model options:")[0]
    assert "--head TEXT" in own
    assert "--head-file" in text.split("Model options:")[1].split("Compute options:")[0]


def test_a_setting_has_the_same_name_beside_an_option_of_a_command(tmp_path: Path) -> None:
    """`vitrine attend --head` is an attention head; the file of a classifier's head is `--head-file` there."""
    ended = vitrine(
        "attend", CAT, "-o", str(tmp_path / "map.png"), "--head", "2", "--head-file", str(tmp_path / "none")
    )
    assert ended.returncode == 1
    assert "none" in ended.stderr
    assert vitrine("attend", CAT, "-o", str(tmp_path / "map.png"), "--head", "2").stderr == ""


def test_every_setting_is_a_flag_of_serve() -> None:
    from app.settings import Settings

    text = vitrine("serve", "--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_classify_prints_the_best_classes() -> None:
    ended = vitrine("classify", CAT, ESPRESSO, "--top-k", "2")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [lines[0], lines[3]] == [CAT, ESPRESSO]
    assert re.fullmatch(r" +\d+\.\d% +Egyptian cat", lines[1])
    assert re.fullmatch(r" +\d+\.\d% +espresso", lines[4])


def test_classify_as_json_is_what_the_server_answers(client: httpx.Client) -> None:
    ended = vitrine("classify", CAT, "--json", "--size", "140x98", "--resize", "fit")
    served = client.post("/classify?size=140x98&resize=fit", content=Path(CAT).read_bytes()).json()["results"][0][
        "predictions"
    ]
    (line,) = ended.stdout.splitlines()
    actual = json.loads(line)
    assert actual["file"] == CAT
    assert [p["label"] for p in actual["predictions"]] == [p["label"] for p in served]
    assert_equal_in_float32([p["score"] for p in actual["predictions"]], [p["score"] for p in served])


def test_a_number_of_patches_is_what_the_server_answers(tmp_path: Path, client: httpx.Client) -> None:
    ended = vitrine("embed", CAT, "-o", str(tmp_path / "out.npy"), "--max-patches", "40")
    assert ended.returncode == 0, ended.stderr
    (served,) = client.post("/embed?max_patches=40", content=Path(CAT).read_bytes()).json()["results"]
    assert_equal_in_float32(np.load(tmp_path / "out.npy")[0], served["embedding"])
    refused = vitrine("classify", CAT, "--max-patches", "40", "--size", "70")
    assert refused.returncode == 2
    assert "--max-patches: 40 must be without size and resize" in refused.stderr


def test_embed_writes_a_row_for_each_file(tmp_path: Path, client: httpx.Client) -> None:
    files = [CAT, ESPRESSO] * 30
    ended = vitrine("embed", *files, "-o", str(tmp_path / "out.npy"), "--normalize")
    assert ended.returncode == 0, ended.stderr
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.shape == (60, 384)
    for row, path in enumerate((CAT, ESPRESSO)):
        (served,) = client.post("/embed?normalize=true", content=Path(path).read_bytes()).json()["results"]
        for same in range(row, 60, 2):
            assert_equal_in_float32(vectors[same], served["embedding"])


def test_a_bad_file_is_named_and_no_other_row_is_lost(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    ended = vitrine("embed", CAT, str(bad), ESPRESSO, "-o", str(tmp_path / "out.npy"))
    assert ended.returncode == 1
    assert "bad.png" in ended.stderr
    vectors = np.load(tmp_path / "out.npy")
    assert np.isnan(vectors).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ((), {}),
        (
            ("--method", "rollout", "--map", "--size", "140x98"),
            {"method": "rollout", "output": "map", "size": "140x98"},
        ),
    ],
    ids=["overlay", "map"],
)
def test_attend_draws_what_the_server_draws(
    tmp_path: Path, client: httpx.Client, arguments: tuple[str, ...], query: dict[str, str]
) -> None:
    ended = vitrine("attend", CAT, "-o", str(tmp_path / "map.png"), *arguments)
    assert ended.returncode == 0, ended.stderr
    served = client.post("/attention", params=query, content=Path(CAT).read_bytes())
    actual, expected = (
        np.asarray(Image.open(io.BytesIO(png)), np.int16)
        for png in ((tmp_path / "map.png").read_bytes(), served.content)
    )
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 2  # rounding of colours


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("classify", "nowhere.jpg"), "nowhere.jpg"),
        (("classify", CAT, "--size", "0"), "--size"),
        (("classify", CAT, "--size", "9999"), "4096 are allowed"),
        (("classify", CAT, "--dtype", "int4"), "--dtype"),
        (("classify", CAT, "--model", "nowhere"), "nowhere"),
        (("attend", CAT, "-o", "map.png", "--head", "all"), "--head"),
        (("attend", CAT, "-o", "map.png", "--head", "6"), "0 to 5"),
        (("serve", "--port", "x"), "--port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_reported_without_a_traceback(arguments: tuple[str, ...], named: str) -> None:
    ended = vitrine(*arguments)
    assert ended.returncode != 0
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


def test_inspect_shows_what_would_be_served(client: httpx.Client) -> None:
    model = str(ROOT / "weights" / "vit-small-tiny-imagenet")
    text = vitrine("inspect", model).stdout
    for line in ("layout         timm", "profile        timm", "heads          6", "labels         Egyptian cat, reel"):
        assert line in text
    printed, served = json.loads(vitrine("inspect", model, "--json").stdout), client.get("/model").json()
    assert {name: printed[name] for name in printed if name != "source"} == {
        name: served[name] for name in printed if name != "source"
    }


def test_inspect_uses_settings_that_the_checkpoint_does_not_have() -> None:
    model = str(ROOT / "weights" / "vit-small-tiny-imagenet")
    printed = json.loads(vitrine("inspect", model, "--json", "--profile", "dinov2", "--labels", "none").stdout)
    assert printed["profile"] == "dinov2"
    assert printed["position"]["offset"] == 0.1
    assert printed["labels"][:2] == ["0", "1"]
    refused = vitrine("inspect", model, "--profile", "nonsense")
    assert refused.returncode == 1
    assert "unknown profile 'nonsense'" in refused.stderr


def test_a_converted_checkpoint_is_served_alike(tmp_path: Path) -> None:
    model, written = str(ROOT / "weights" / "vit-small-tiny-imagenet"), str(tmp_path / "written")
    assert vitrine("convert", model, written).returncode == 0
    before, after = (json.loads(vitrine("inspect", place, "--json").stdout) for place in (model, written))
    for name in ("parameters", "depth", "heads", "table_grid", "position", "labels", "preprocessing"):
        assert before[name] == after[name]
    again = vitrine("convert", model, written)
    assert again.returncode == 1
    assert "not an empty directory" in again.stderr
