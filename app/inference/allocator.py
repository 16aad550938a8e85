"""The C library's allocator keeps the large blocks of a forward pass, for the next pass to use again.

As it comes, glibc gives a block of many megabytes back to the system when it is freed, and the system hands it out
again page by page, each cleared first: on two cores that was a tenth of the time of a forward pass of ViT-S.
A thread's memory lies in heaps of 64 MiB, of which glibc gives back those that become empty: a batch that takes several
of them still loses a part each time. Source: mallopt(3), and glibc's arena.c.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

MMAP_BYTES = 2**25
"""Blocks from here on are the system's; the most that glibc itself comes to when a program frees such blocks."""

TRIM_BYTES = 2 * MMAP_BYTES
"""Free memory at the end of a heap that is kept; the most that glibc itself comes to, too."""


def keep_large_blocks() -> None:
    """Start where glibc's own adaptation ends; what the operator has set stays, and so does another allocator."""
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
