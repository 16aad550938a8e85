"""README.md is short, and its first answer and the settings it names are those of the service."""

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.bounds import SCORES_APART
from tests.commands import commands
from tests.server import ROOT, Server

README = (ROOT / "README.md").read_text()
FIRST = next(command.text for command in commands() if command.program == "curl")
(ANSWER,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)


def first_answer(server: Server) -> Any:
    """Return what the first command of the README prints."""
    command = FIRST.replace("localhost:8000", f"127.0.0.1:{server.port}").replace("curl ", "curl -sS --fail ")
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(ended.stdout)


def scores(answer: Any) -> Any:
    return [prediction.pop("score") for prediction in answer["results"][0]["predictions"]]


def as_printed(numbers: Sequence[float], texts: Sequence[str]) -> list[str]:
    """Return the numbers with as many digits as the texts have."""
    return [f"{number:.{len(text.partition('.')[2])}f}" for number, text in zip(numbers, texts, strict=True)]


def test_the_first_answer_is_the_one_that_is_printed(server: Server, half: Server) -> None:
    """In any dtype at the precision that is shown; the text adds the digits of float32."""
    (named,) = re.findall(r"([\d.]+) and ([\d.]+) in float32, and up to a hundredth off in bfloat16", README)
    for running in (server, half):
        answer, printed = first_answer(running), json.loads(ANSWER, parse_float=str)
        found, shown = scores(answer), scores(printed)
        assert answer == printed
        assert as_printed(found, shown) == shown
        assert running is half or as_printed(found, named) == list(named)
        assert np.abs(np.subtract(found, np.array(named, float))).max() <= SCORES_APART


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 165


def test_the_settings_that_are_named_exist() -> None:
    from app.settings import Settings

    for name in re.findall(r"VITRINE_([A-Z_]+[A-Z])", README):
        assert name.lower() in Settings.model_fields
