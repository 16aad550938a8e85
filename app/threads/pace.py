"""Let work in the background rest, so that it takes no more than a share of the time, however much there is of it.

A low priority is not enough for that on few cores: work also takes caches and memory from threads that answer.
"""

import time
from types import TracebackType


class Pace:
    """A context in which one thread does a piece of work. It begins when the thread has rested from the one before.

    Args:
        rest: how long, as a multiple of the time that the last piece took.
        most_s: the longest rest, in seconds.
    """

    def __init__(self, rest: float, most_s: float) -> None:
        self._rest, self._most = rest, most_s
        self._begun = self._rested = float("-inf")

    def __enter__(self) -> None:
        """Wait until the thread has rested."""
        time.sleep(max(0.0, self._rested - time.monotonic()))
        self._begun = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note how long the work took."""
        ended = time.monotonic()
        self._rested = ended + min(self._rest * (ended - self._begun), self._most)
