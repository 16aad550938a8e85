"""How much memory the process keeps for the next forward pass: the C library's freed blocks, oneDNN's compiled shapes.

By default glibc returns a freed block of many megabytes to the kernel, which hands it out again page by page and clears
each page first. On two cores that was a tenth of the time of a forward pass of ViT-S. What remains: a thread's memory
lies in heaps of 64 MiB, and glibc returns those that become empty, so a batch that takes several of them still loses a
part each time. What is kept is given back when the device has been idle for a while, and after a lack of memory.
Sources: mallopt(3), malloc_trim(3), and glibc's arena.c.

oneDNN compiles each operation for the shapes of its operands and by default keeps 1,024 of them, so that memory grows
with the variety of sizes. Measured with ViT-S in bfloat16 on two cores, 800 images of 200 sizes: 480 MB after the
warm-up become 973 and grow on; with 256 shapes they become 797, and with 64 they become 746. Batches of eight sizes
need more than 64: with 256 they take 3% less processor time, and with 1,024 as much as with 256. Source: oneDNN's
developer guide, Primitive Cache.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

MMAP_BYTES = 2**25
"""Larger blocks come from the kernel each time; glibc's own adaptation ends at this size."""

TRIM_BYTES = 2 * MMAP_BYTES
"""Free memory that is kept at the end of a heap; glibc's own adaptation ends here too."""


SHAPES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def limit_compiled_shapes(count: int) -> None:
    """Set the number of compiled shapes; keep an operator's choice. oneDNN reads it before its first operation."""
    os.environ.setdefault(SHAPES, str(count))


def trim() -> None:
    """Give freed memory back to the system, where the C library is glibc."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def keep_large_blocks() -> None:
    """Set the thresholds to where glibc's own adaptation ends; keep an operator's choice and another allocator."""
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
