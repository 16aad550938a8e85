"""Find out whether other programs use the cores, by the processor time that this process gets while it wants all.

Two streams on two cores use 1.7 to 1.95 of them where nobody else does: now and then a stream waits for Python's lock
or for an image. Beside two busy programs they get 1.0 to 1.1, and three streams 1.3.
"""

from collections.abc import Callable

FRESH = 0.5
"""Weight of a batch beside the earlier ones: two or three batches tell. Without other programs 19 of 20 have a share
from 0.75 to 1; beside two programs nearly all have one from 0.4 to 0.7."""

LEAST_SHARE = 0.75
"""Share of the cores below which others use them."""


class Crowd:
    """A running mean of the cores that this process gets, over batches during which all streams had work.

    Args:
        clock: tells the time in seconds.
        used: tells the processor time that this process has used, in seconds.
    """

    def __init__(self, clock: Callable[[], float], used: Callable[[], float]) -> None:
        self._clock, self._used = clock, used
        self._begun: dict[int, tuple[float, float]] = {}
        self._share = 1.0

    @property
    def is_there(self) -> bool:
        """Whether other programs use the cores."""
        return self._share < LEAST_SHARE

    def begin(self, stream: int) -> None:
        """Note that a batch begins, while all other streams run one."""
        self._begun[stream] = self._clock(), self._used()

    def end(self, stream: int, cores: int) -> None:
        """Learn from a batch that has ended, if its begin was noted."""
        if stream in self._begun:
            then, used = self._begun.pop(stream)
            took_s = self._clock() - then
            if took_s > 0:
                self._share += FRESH * ((self._used() - used) / took_s / cores - self._share)
