"""The README does what it says: its commands are run and its answer is compared."""

import json
import re
import subprocess
from typing import Any

from tests.commands import commands
from tests.server import ROOT, Server

README = (ROOT / "README.md").read_text()
FIRST = next(command.text for command in commands() if command.program == "curl")
(ANSWER,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)


def first_answer(server: Server) -> Any:
    """What the README's first command prints."""
    command = FIRST.replace("localhost:8000", f"127.0.0.1:{server.port}").replace("curl ", "curl -sS --fail ")
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(ended.stdout)


def scores(answer: Any) -> list[float]:
    return [prediction.pop("score") for prediction in answer["results"][0]["predictions"]]


def test_the_first_answer_is_the_one_that_is_printed(server: Server, half: Server) -> None:
    (digits,) = re.findall(r"([\d.]+) and ([\d.]+) in float32, ([\d.]+) and\s([\d.]+) in bfloat16", README)
    for running, named in ((server, digits[:2]), (half, digits[2:])):
        answer, printed = first_answer(running), json.loads(ANSWER, parse_float=str)
        found, shown = scores(answer), scores(printed)
        assert answer == printed
        for score, text in zip([*found, *found], [*shown, *named], strict=True):
            assert f"{score:.{len(text.partition('.')[2])}f}" == text


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
