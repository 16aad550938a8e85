"""Commands without the packages that the image leaves out."""

import re
import subprocess
import sys
from typing import Any

import pytest

from tests.server import ROOT

(_LEFT_OUT,) = re.findall(
    r"uninstall --yes ((?:\w+ )+)&& \$python -c \"import torch\"", (ROOT / "Dockerfile").read_text()
)
LEFT_OUT: tuple[str, ...] = tuple(_LEFT_OUT.split())
"""The packages."""

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

absent, *arguments = sys.argv[1:]

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in absent.split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import app.main, app.server, models.files.hub
from app.cli import main
main(arguments)
"""


def as_in_the_image(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `vitrine` with these arguments."""
    torch: Any = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("the image leaves packages out for torch's CPU build alone")
    command = [sys.executable, "-c", WITHOUT, " ".join(LEFT_OUT), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
