"""What memory the process keeps: freed blocks, counted in page faults; compiled shapes, as oneDNN's own log has them.

Each is measured in a process of its own.
"""

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
from app.inference.device.allocator import keep_large_blocks
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


SIZES = """
import sys
from app.inference.device.allocator import limit_compiled_shapes

limit_compiled_shapes(int(sys.argv[1]))
import torch

torch.set_num_threads(1)
weight = torch.zeros(8, 8, 3, 3)
for time in ("first", "second"):
    print(time, flush=True)
    for side in range(2, 12):
        torch.nn.functional.conv2d(torch.zeros(2, 8, 14 * side, 14 * side), weight)
"""
"""oneDNN computes convolutions on every processor; the network's layers only where it has bfloat16."""


def compiled_again(capacity: int, **variables: str) -> bool:
    """Whether sizes that have been seen are compiled once more."""
    ended = subprocess.run(
        [sys.executable, "-c", SIZES, str(capacity)],
        cwd=ROOT,
        env=environment() | {"ONEDNN_VERBOSE": "profile_create"} | variables,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    first, second = ended.stdout.split("second")
    assert "create:cache_miss" in first
    return "create:cache_miss" in second


def test_the_number_of_compiled_shapes_is_limited() -> None:
    assert not compiled_again(1000)
    assert compiled_again(8)
    assert not compiled_again(8, ONEDNN_PRIMITIVE_CACHE_CAPACITY="1000")  # what the operator has set stays


FREED = """
import torch
from app.inference.device.allocator import keep_large_blocks, trim

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_large_blocks()
before = resident()
blocks = [torch.ones(2**20) for _ in range(64)]  # 4 MiB each, from the heap
last = torch.ones(2**20)  # the end of the heap: what lies before it does not return by itself
del blocks
kept = resident() - before
trim()
print(kept, resident() - before)
"""


def test_what_is_kept_can_be_given_back() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FREED], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, check=True, text=True
    )
    kept, left = map(int, ended.stdout.split())
    assert kept > 200 * 2**20
    assert left < 50 * 2**20
