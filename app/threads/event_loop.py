"""Call the event loop from other threads."""

import asyncio
from collections.abc import Callable
from typing import Any


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> None:
    """Run `callback(*args)` on the loop, from any thread; do nothing once the loop is closed.

    A thread that computes cannot be interrupted. It may finish after the server has stopped and its result is no longer
    needed; asyncio's own method would then raise on that thread.
    """
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
