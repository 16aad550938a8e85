"""Memory that a forward pass has freed is there for the next one: counted in page faults, of processes of their own."""

import os
import subprocess
import sys

import pytest

from tests.server import ROOT

PASSES = """
import resource, sys, threading
import numpy as np
from app.inference.allocator import keep_large_blocks
from app.inference.engine import Engine, Job
from models.checkpoints.checkpoint import open_checkpoint
from models.network.vit import Readout

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def serve():  # on a thread, as the service does: the allocator gives each its own memory
    engine = Engine(open_checkpoint("weights/vit-small-tiny-imagenet"), "cpu", "float32")
    jobs = [Job(np.zeros((3, 224, 224), np.uint8), Readout.MEAN)] * 8
    for _ in range(4):
        engine.run(jobs)
    before = faults()
    for _ in range(8):
        engine.run(jobs)
    print(faults() - before)

if sys.argv[1] == "keep":
    keep_large_blocks()
thread = threading.Thread(target=serve)
thread.start()
thread.join()
"""


def faults(mode: str, **environment: str) -> int:
    ended = subprocess.run(
        [sys.executable, "-c", PASSES, mode],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return int(ended.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_a_pass_reuses_the_memory_of_the_one_before() -> None:
    assert faults("keep") < faults("as it comes") / 5


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_what_the_operator_has_set_stays() -> None:
    chosen = {"MALLOC_TRIM_THRESHOLD_": str(2**20), "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    assert faults("keep", **chosen) > 5 * faults("keep")
