"""Show the names of threads where people look for them: `top -H`, `htop`, `perf` and debuggers."""

import contextlib
import sys
import threading
from pathlib import Path

MAX_BYTES = 15
"""The kernel cuts a longer name."""


def show_name() -> None:
    """Give this thread its Python name in the kernel too, on Linux; Python does it itself from 3.14 on.

    Threads that it starts inherit the name, such as torch's own of a device thread.
    """
    if sys.platform == "linux":
        name = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        with contextlib.suppress(OSError):  # without /proc, or where it is read-only
            name.write_bytes(threading.current_thread().name.encode()[:MAX_BYTES])
