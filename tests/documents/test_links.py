"""Links and paths in the pages lead somewhere, and docs/README.md lists every page."""

import re
from pathlib import Path

import pytest

from tests.documents.how_to import HOW_TO
from tests.server import ROOT

DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted(HOW_TO.glob("*.md")),
]
FURTHER = [
    ROOT / "CHANGELOG.md",
    ROOT / "examples" / "README.md",
    *sorted(ROOT.glob("weights/*/*.md")),
    *sorted(set(ROOT.glob("benchmarks/*.md")) - set(PAGES)),
]
"""Pages that the index leaves to others."""

LINK = re.compile(r"\]\(([^)\s]*)\)")
PATH = re.compile(r"`((?:app|models|tests|docs|deploy|benchmarks|examples|weights)/[\w./-]*[\w/])`")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *FURTHER], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_path_exists(page: Path) -> None:
    for path in PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    for page in (*PAGES, ROOT / "CHANGELOG.md"):
        assert page == index or page.resolve() in linked, page
