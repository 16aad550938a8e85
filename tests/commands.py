"""Extract the commands and Python blocks that README.md and docs/ show. The how-tos have tests of their own."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.server import ROOT

FOLLOWED = {"heads.md", "quantization.md"}
"""Pages of docs/ that are followed as a whole, as the how-tos are: test_heads_page.py, test_quantization_page.py."""

PAGES = (ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in FOLLOWED))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| `([a-z][^` ]* [^`]+)` \|", re.MULTILINE)
"""The first cell of a table row, if it has more than one word."""

ASSIGNMENT = re.compile(r"\w+=\S*\s+")


@dataclass(frozen=True)
class Command:
    """A command or a block of Python, and the page that shows it (relative to the repository's root)."""

    page: str
    text: str

    @property
    def program(self) -> str:
        """The name of the program that it runs."""
        text = self.text
        while found := ASSIGNMENT.match(text):
            text = text[found.end() :]
        return text.split()[0].rpartition("/")[2]


def commands() -> Iterator[Command]:
    """Yield all commands, page by page, in order."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [(found.start(), found[2]) for found in BLOCK.finditer(text) if found[1] == "sh"]
        rows = [(found.start(), f"{found[1]}\n") for found in ROW.finditer(text)]
        for _, block in sorted(blocks + rows):
            for command in split(block):
                yield Command(name_of(page), command)


def name_of(page: Path) -> str:
    """Return the page's path below the repository's root."""
    return str(page.relative_to(ROOT))


def split(block: str) -> Iterator[str]:
    """Yield the commands of a block: one a line, unless the shell needs more lines for one."""
    lines: list[str] = []
    for line in block.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        if not text.endswith("\\") and accepted(text):
            lines.clear()
            if text.strip() and not text.startswith("#"):
                yield text
    assert not lines, f"an incomplete command: {lines}"


def accepted(text: str) -> bool:
    """Return whether the shell considers it complete; for a here-document without its end the shell only warns."""
    ended = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    return not ended.returncode and not ended.stderr


def python_blocks() -> Iterator[Command]:
    """Yield the blocks of Python, page by page."""
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                yield Command(name_of(page), text)
