"""Memory that a forward pass has freed is there for the next one: counted in page faults, of processes of their own."""

import subprocess
import sys

import pytest

from tests.environment import environment
from tests.server import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")

# A batch of two: what a pass takes of it fits into one of the heaps of 64 MiB that glibc gives a thread. Of a larger
# batch it gives back the heaps that have become empty, whatever its thresholds are.
PASSES = """
import resource, sys, threading
import numpy as np
import torch
from app.inference.allocator import keep_large_blocks
from app.inference.engine import Engine
from app.inference.jobs import Job
from models.checkpoints.checkpoint import open_checkpoint
from models.network.vit import Readout

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def serve():  # on a thread, as the service does: the allocator gives each its own memory
    engine = Engine(open_checkpoint("weights/vit-small-tiny-imagenet"), "cpu", "float32")
    jobs = [Job(np.zeros((3, 224, 224), np.uint8), Readout.MEAN)] * 2
    for _ in range(3):
        engine.run(jobs)
    before = faults()
    for _ in range(4):
        engine.run(jobs)
    print(faults() - before)

torch.set_num_threads(1)  # another thread would have memory of its own
if sys.argv[1] == "keep":
    keep_large_blocks()
thread = threading.Thread(target=serve)
thread.start()
thread.join()
"""


def faults(mode: str, **variables: str) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", PASSES, mode],
        cwd=ROOT,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return int(ended.stdout)


@pytest.fixture(scope="module")
def kept() -> int:
    return faults("keep")


def test_a_pass_reuses_the_memory_of_the_one_before(kept: int) -> None:
    assert kept < faults("as it comes") / 5


def test_what_the_operator_has_set_stays(kept: int) -> None:
    chosen = {"MALLOC_TRIM_THRESHOLD_": str(2**20), "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    assert faults("keep", **chosen) > 5 * kept
