"""What `.dockerignore` lets into a build: the one list of what an image is made of.

The rules are those of Docker's own matcher (https://docs.docker.com/build/concepts/context/#dockerignore-files): the
last pattern that matches a path or a directory above it decides, `!` lets in again, `*` stays inside a directory and
`**` does not. `make docker-test` compares the result with what the engine itself sends.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def context(root: Path) -> list[Path]:
    """The files that a build in this directory is sent, relative to it and sorted."""
    rules = _rules((root / ".dockerignore").read_text())
    return sorted(path for path in _files(root) if not _ignored(path, rules))


def copied(dockerfile: str) -> list[str]:
    """The paths that the COPY and ADD steps of a Dockerfile take from the context."""
    sources: list[str] = []
    for step in re.findall(r"^(?:COPY|ADD)\s+(.*)", dockerfile.replace("\\\n", " "), re.MULTILINE | re.IGNORECASE):
        options = re.match(r"(?:--\S+\s+)*", step)
        rest = step[options.end() :] if options else step
        if not (options and "--from=" in options[0]):
            sources += (json.loads(rest) if rest.startswith("[") else rest.split())[:-1]
    return sources


def provides(files: list[Path], source: str) -> list[Path]:
    """The files of a context that a COPY of this source takes."""
    pattern = _pattern(source)
    return [path for path in files if _matches(path, pattern)]


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        # Nothing of these is ever sent, and they hold a hundred thousand files.
        folders[:] = [name for name in folders if name not in (".git", ".venv")]
        yield from (Path(folder, name).relative_to(root) for name in names)


def _rules(text: str) -> list[tuple[bool, re.Pattern[str]]]:
    """For each pattern, in order, whether it ignores, and what it matches."""
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    return [(not line.startswith("!"), _pattern(line.removeprefix("!").strip())) for line in lines if line]


def _ignored(path: Path, rules: list[tuple[bool, re.Pattern[str]]]) -> bool:
    ignored = False
    for ignores, pattern in rules:
        if _matches(path, pattern):
            ignored = ignores
    return ignored


def _matches(path: Path, pattern: re.Pattern[str]) -> bool:
    """Whether the pattern matches the path or a directory above it."""
    return any(pattern.fullmatch(str(part)) for part in (path, *path.parents))


def _pattern(written: str) -> re.Pattern[str]:
    normal = str(PurePosixPath(written.lstrip("/") or "."))
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\]|\\.)", normal)
    return re.compile("".join(pieces.get(token, _literal(token)) for token in tokens))


def _literal(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return re.escape(token[1:] if token.startswith("\\") else token)
