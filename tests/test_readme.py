"""The README does what it says: its commands are run and its answer is compared."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROOT, Server

README = (ROOT / "README.md").read_text()
CURLS = re.findall(r"^curl .*$", README, re.MULTILINE)


def run(command: str, server: Server, folder: Path) -> str:
    command = command.replace("localhost:8000", f"127.0.0.1:{server.port}").replace(" -o ", f" -o {folder}/")
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout


@pytest.mark.parametrize("command", CURLS)
def test_every_curl_is_answered(server: Server, tmp_path: Path, command: str) -> None:
    output = run(f"{command.replace('curl ', 'curl -sS --fail ')}", server, tmp_path)
    written = re.search(r"-o (\w+\.\w+)", command)
    if written:
        signature = {"npy": b"\x93NUM", "png": b"\x89PNG"}[written[1].split(".")[1]]
        assert (tmp_path / written[1]).read_bytes()[:4] == signature
    else:
        assert json.loads(output)["results"]


def test_the_first_answer_is_the_one_that_is_printed(server: Server, tmp_path: Path) -> None:
    (printed,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    rounded: Any = lambda text: json.loads(text, parse_float=lambda number: round(float(number), 5))  # noqa: E731
    assert rounded(run(CURLS[0], server, tmp_path)) == rounded(printed)


def test_the_tree_names_every_file_of_the_house() -> None:
    tree = README.split("## The house")[1].split("## Develop")[0]
    for folder in ("app", "models"):
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.name != "__init__.py":
                assert path.name in tree, f"{path} is not in the README"


def test_the_settings_that_are_named_exist() -> None:
    from app.settings import Settings

    for name in re.findall(r"VITRINE_([A-Z_]+[A-Z])", README):
        assert name.lower() in Settings.model_fields
