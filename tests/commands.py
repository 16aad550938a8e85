"""The commands that README.md and docs/ show, taken out of their pages."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.server import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| `([a-z][^` ]* [^`]+)` \|", re.MULTILINE)
"""The first cell of a table's row, where it is more than a word."""

ASSIGNMENT = re.compile(r"\w+=\S*\s+")


@dataclass(frozen=True)
class Command:
    """One command as it is printed, with the page that prints it."""

    page: str
    text: str

    @property
    def program(self) -> str:
        """What it runs."""
        text = self.text
        while found := ASSIGNMENT.match(text):
            text = text[found.end() :]
        return text.split()[0].rpartition("/")[2]


def commands() -> Iterator[Command]:
    """All of them, page by page, in their order."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [(found.start(), found[2]) for found in BLOCK.finditer(text) if found[1] == "sh"]
        rows = [(found.start(), f"{found[1]}\n") for found in ROW.finditer(text)]
        for _, block in sorted(blocks + rows):
            for command in split(block):
                yield Command(page.name, command)


def split(block: str) -> Iterator[str]:
    """The commands of a block: a line each, unless the shell wants more lines for one."""
    lines: list[str] = []
    for line in block.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        if not text.endswith("\\") and accepted(text):
            lines.clear()
            if text.strip() and not text.startswith("#"):
                yield text
    assert not lines, f"no whole command: {lines}"


def accepted(text: str) -> bool:
    """Whether it is whole to the shell, which takes a here-document without its end with a warning."""
    ended = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    return not ended.returncode and not ended.stderr


def python_blocks() -> Iterator[Command]:
    """The blocks of Python, page by page."""
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                yield Command(page.name, text)
