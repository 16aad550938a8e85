"""Run the event loop before compute threads when there are fewer cores than threads.

With equal priorities each compute thread gets as much processor time as the event loop. Under overload, refusals then
wait for seconds behind forward passes and decoders that use every core.
"""

import os
import sys
import threading

COMPUTE_NICENESS = 5
"""On Linux's scale, where 0 is an ordinary thread: a compute thread gets a third of the event loop's share."""


def lower_priority() -> None:
    """Lower the priority of this thread and of those that it starts, on Linux; other systems have none per thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), COMPUTE_NICENESS)
