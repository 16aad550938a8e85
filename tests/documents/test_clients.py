"""Each example of docs/clients.md runs unchanged, and prints what its comments say."""

import re
import subprocess
import sys

import pytest

from tests.server import ROOT, Server

PAGE = (ROOT / "docs" / "clients.md").read_text()
EXAMPLES = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)


def test_every_dialect_has_an_example() -> None:
    sections = PAGE.split("\n## ")[1:]
    assert len(sections) == 4
    assert all("```" in section for section in sections)


@pytest.fixture(params=["server", "half"], ids=["float32", "bfloat16"])
def either(request: pytest.FixtureRequest) -> Server:
    """A server of each dtype: the printed values are the same in both."""
    running: Server = request.getfixturevalue(request.param)
    return running


@pytest.mark.parametrize(("language", "text"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_does_what_it_says(either: Server, language: str, text: str) -> None:
    there = text.replace("localhost:8000", f"127.0.0.1:{either.port}")
    quiet = there.replace("curl ", "curl -sS --fail ")
    command = [sys.executable, "-c", there] if language == "python" else ["bash", "-c", quiet]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    if language == "python":
        assert ended.stdout.splitlines() == re.findall(r"^\s*# (.*)$", text, re.MULTILINE)
    else:
        assert '"labels"' in ended.stdout or '"embedding"' in ended.stdout, ended.stdout
