"""`make gpu` runs to its end on a machine without a GPU, where its figures mean nothing."""

import subprocess
import sys

from tests.server import ROOT

SECTIONS = (
    *("CUDA tests", "Forward", "Two batches at once", "HTTP", "Copies to the device", "Profile of one batch"),
    "Parity",
)
ARGS = "--device cpu --dtype float32 --quick --models T --seconds 0.2 --side 256 --parity-s 2"


def test_the_page_of_a_device_is_whole() -> None:
    command = ["make", "-s", "gpu", f"PYTHON={sys.executable}", f"ARGS={ARGS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [line[3:] for line in done.stdout.splitlines() if line.startswith("## ")] == list(SECTIONS)
    assert "failed" not in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ViT-Ti/16 |")]
    # Batches of the forward pass, one operation after the other and in one call where there is TorchScript; batches on
    # one thread and on two; requests.
    assert len(rows) in {2 + 2 + 3, 2 + 2 + 2 + 3}, done.stdout
    assert "| timm, plain | " in done.stdout
