"""Let the C library's allocator keep the large blocks of a forward pass for the next one.

By default glibc returns a freed block of many megabytes to the kernel, which hands it out again page by page and clears
each page first. On two cores that was a tenth of the time of a forward pass of ViT-S. What remains: a thread's memory
lies in heaps of 64 MiB, and glibc returns those that become empty, so a batch that takes several of them still loses a
part each time. Sources: mallopt(3), and glibc's arena.c.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

MMAP_BYTES = 2**25
"""Larger blocks come from the kernel each time; glibc's own adaptation ends at this size."""

TRIM_BYTES = 2 * MMAP_BYTES
"""Free memory that is kept at the end of a heap; glibc's own adaptation ends here too."""


def keep_large_blocks() -> None:
    """Set the thresholds to where glibc's own adaptation ends; keep an operator's choice and another allocator."""
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
