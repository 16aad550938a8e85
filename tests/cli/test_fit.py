"""`vitrine fit` in a process of its own, and the head that it writes in the commands that serve one."""

import csv
import json
import re
from pathlib import Path

import httpx
import pytest

from app.heads.file import read_head
from tests.bounds import assert_equal_in_float32
from tests.cli.test_cli import vitrine
from tests.heads.labelled import CLASSES, cut, write_folder
from tests.server import ROOT, serving

MODEL = str(ROOT / "weights" / "vit-small-tiny-imagenet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"), 4)


@pytest.fixture(scope="module")
def fitted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("fitted") / "head.safetensors"
    ended = vitrine("fit", str(folder), "-o", str(output))
    assert ended.returncode == 0, ended.stderr
    assert "12 pictures of 3 classes\n" in ended.stdout
    assert "accuracy 100.0% by leave-one-out, on 12 pictures; calibration error " in ended.stdout
    return output


def test_only_the_head_is_left(fitted: Path) -> None:
    assert [path.name for path in fitted.parent.iterdir()] == ["head.safetensors"]
    head = read_head(fitted)
    assert head.classes == tuple(sorted(CLASSES))
    assert (head.space.model, head.space.dtype, head.space.pool) == ("vit-small-tiny-imagenet", "float32", "cls")
    assert head.examples.counts.tolist() == [4, 4, 4]
    assert head.examples.names[0] == "0.png"


def assert_same_head(path: Path, expected: Path) -> None:
    """The same but for the rounding of vectors that were computed in other batches."""
    one, other = read_head(path), read_head(expected)
    assert (one.space, one.classes, one.examples.names) == (other.space, other.classes, other.examples.names)
    assert_equal_in_float32(one.weight, other.weight)


def test_classify_takes_the_head(fitted: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path, 2, first=9)
    ended = vitrine("classify", str(other), "--head", str(fitted), "--json", "--top-k", "1")
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [Path(line["file"]).parent.name for line in lines] == [line["predictions"][0]["label"] for line in lines]


def test_a_service_answers_with_the_head(fitted: Path, tmp_path: Path) -> None:
    head, picture = read_head(fitted), cut("coffee", 1, 9)[0]
    with serving(tmp_path / "log", head=fitted) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        model = client.get("/model").json()
        assert (model["classes"], model["labels"]) == (3, list(head.classes))
        answer = client.post("/classify", content=picture)
        assert answer.headers["vitrine-head"] == f"version={head.version}"
        (result,) = answer.json()["results"]
        assert result["predictions"][0]["label"] == "coffee"
        assert sum(one["score"] for one in result["predictions"]) == pytest.approx(1, abs=1e-5)
        assert client.post("/classify?size=112", content=picture).json()["results"] == [result]
        refused = client.post("/classify?size=224", content=picture)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameter")
        assert "was fitted at 112x112" in refused.json()["detail"]
        pipeline = client.post("/pipeline/image-classification", content=picture).json()
        assert [one["label"] for one in pipeline] == [one["label"] for one in result["predictions"]]
        assert client.post("/embed", content=picture).status_code == 200


def test_a_head_of_another_dtype_is_refused(fitted: Path) -> None:
    ended = vitrine("classify", str(ROOT / "examples" / "cat.png"), "--head", str(fitted), dtype="bfloat16")
    assert ended.returncode == 1
    assert "was fitted on vectors of vit-small-tiny-imagenet in float32" in ended.stderr
    assert "another model or dtype" in ended.stderr


def test_inspect_shows_the_head_and_convert_leaves_it_alone(fitted: Path, tmp_path: Path) -> None:
    shown = vitrine("inspect", MODEL, "--head", str(fitted)).stdout
    assert re.search(r"^labels +cat, coffee, rocket  \(the fitted head lists them\)$", shown, re.MULTILINE)
    ended = vitrine("convert", MODEL, str(tmp_path / "out"), "--head", str(fitted))
    assert ended.returncode == 1
    assert "stays a file of its own" in ended.stderr


def test_labels_in_a_table_give_the_same_head(fitted: Path, folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path"])
        writer.writerows([path.parent.name, str(path)] for path in sorted(folder.rglob("*.png")))
    output = tmp_path / "head.safetensors"
    ended = vitrine("fit", "--labels", str(tmp_path / "labels.csv"), "-o", str(output))
    assert ended.returncode == 0, ended.stderr
    assert_same_head(output, fitted)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_vectors_that_were_embedded_before_give_the_same_weights(
    fitted: Path, folder: Path, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / f"vectors{suffix}"
    assert vitrine("embed", str(folder), "-o", str(table)).returncode == 0
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in sorted(folder.rglob("*.png")))
    )
    command = ("fit", "--vectors", str(table), "--labels", str(labels), "-o", str(tmp_path / "head.safetensors"))
    ended = vitrine(*command)
    assert ended.returncode == 0, ended.stderr
    assert_same_head(tmp_path / "head.safetensors", fitted)
    other = vitrine(*command, dtype="bfloat16")
    assert other.returncode == 1
    assert "other weights, preprocessing or dtype" in other.stderr
    sized = vitrine(*command, "--size", "224")
    assert sized.returncode == 2
    assert "leave --pool, --size, --resize, --max-patches out" in sized.stderr


def test_other_pictures_measure_the_head_and_a_bad_file_is_named(folder: Path, tmp_path: Path) -> None:
    validate = write_folder(tmp_path / "validate", 2, first=9)
    (validate / "cat" / "broken.png").write_bytes(b"no picture")
    report = tmp_path / "report.html"
    ended = vitrine(
        *("fit", str(folder), "--validate", str(validate), "--method", "logistic"),
        *("-o", str(tmp_path / "head.safetensors"), "--report", str(report)),
    )
    assert ended.returncode == 0, ended.stderr
    assert "accuracy 100.0% by validation, on 6 pictures" in ended.stdout
    assert "broken.png: " in ended.stderr
    text = report.read_text()
    assert "<svg" in text
    assert "cat answered as cat: 2 of 2" in text
    assert "broken.png" in text
    assert "<script" not in text
    assert "http" not in text


def test_a_picture_with_a_wrong_label_is_named_and_shown(folder: Path, tmp_path: Path) -> None:
    wrong = write_folder(tmp_path / "pictures", 5)
    (wrong / "cat" / "4.png").write_bytes(cut("rocket", 1, 9)[0])
    output, report = tmp_path / "head.safetensors", tmp_path / "report.html"
    ended = vitrine("fit", str(wrong), "-o", str(output), "--report", str(report))
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"cat/4\.png: cat \(\d+\.\d%\); looks like rocket", ended.stdout)
    assert report.read_text().count('src="data:image/jpeg;base64,') == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no folder for each class"),
        ({"loose.png": "cat", "cat/0.png": "cat"}, "the picture 'loose.png' lies in no class's folder"),
        ({"cat/0.png": "cat", "coffee/0.txt": ""}, "the class 'coffee' has no picture that can be used"),
        ({"cat/0.png": "cat", "cat/1.png": "cat"}, "a head needs two classes or more"),
    ],
)
def test_a_folder_that_nothing_can_be_fitted_from_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, kind in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(cut(kind, 1)[0] if kind else b"text")
    ended = vitrine("fit", str(folder), "-o", str(tmp_path / "head.safetensors"))
    assert ended.returncode == 1
    assert message in ended.stderr
    assert not (tmp_path / "head.safetensors").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,class\na,b\n", "has no column 'label'"),
        ("path,label\na,b\na,c\n", "line 3 has the path 'a', which an earlier one has too"),
        ("path,label\na,\n", "line 2 has no label"),
        ("path,label\n", "has no rows"),
    ],
)
def test_a_table_of_labels_that_cannot_be_used_is_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(table)
    ended = vitrine("fit", "--labels", str(tmp_path / "labels.csv"), "-o", str(tmp_path / "head.safetensors"))
    assert ended.returncode == 1
    assert message in ended.stderr
