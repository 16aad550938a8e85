"""Say in the log that the process has no file descriptors left: the event loop then drops new connections silently."""

import asyncio
import errno
import logging
import os
import time

logger = logging.getLogger("vitrine")

CHECK_S = 1.0
REPEAT_S = 60.0
"""While it lasts, the log says it once in this time."""


async def watch_descriptors() -> None:
    """Check for a free file descriptor every second, until cancelled."""
    told_at = -REPEAT_S
    while True:
        await asyncio.sleep(CHECK_S)
        if time.monotonic() - told_at >= REPEAT_S and _used_up():
            told_at = time.monotonic()
            logger.warning(
                "no file descriptors are left, so new connections are dropped: raise the limit of open files "
                "(ulimit -n), or limit the connections of a client in a proxy"
            )


def _used_up() -> bool:
    try:
        os.close(os.dup(2))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False
