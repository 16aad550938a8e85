"""Who goes first when there are fewer cores than threads: the event loop, which refuses and answers in no time.

Threads that compute would each get as much of the cores as the loop does; under overload refusals would then wait for
seconds behind forward passes and decoders that want every core there is.
"""

import os
import sys
import threading

COMPUTE_NICENESS = 5
"""On Linux's scale, where 0 is an ordinary thread: a thread that computes gets a third of the loop's share."""


def lower_priority() -> None:
    """Let the event loop go before this thread and those that it starts; only Linux knows priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), COMPUTE_NICENESS)
