"""Let work in the background rest, so that it takes no more than a share of the time, however much there is of it.

A low priority is not enough for that on few cores: work also takes caches and memory from threads that answer.
"""

import time
from types import TracebackType


class Pace:
    """A context in which one thread does a piece of work. It begins when the thread has rested from the one before.

    Args:
        rest: how long, as a multiple of the processor time that the last piece took: what a busy processor made it
            wait for took nothing from others.
        most_s: the longest rest, in seconds.
    """

    def __init__(self, rest: float, most_s: float) -> None:
        self._rest, self._most = rest, most_s
        self._begun, self._rested = 0.0, float("-inf")

    def __enter__(self) -> None:
        """Wait until the thread has rested."""
        time.sleep(max(0.0, self._rested - time.monotonic()))
        self._begun = time.thread_time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note how much processor time the work took."""
        took = time.thread_time() - self._begun
        self._rested = time.monotonic() + min(self._rest * took, self._most)
