"""Batches that run side by side on one device: which may begin, what share each has, how much work is left.

A device that runs n batches at once is taken to give each an nth of itself, so that one batch takes n times as long as
alone and all together take as long as one after the other. Times here are the device's: a second of a batch that runs
beside another one counts half. So what is measured in company also tells how long a batch takes alone.

Where the same cores prepare work, a batch that begins meanwhile leaves it one for each piece: threads of one forward
pass wait for each other, and most of all for one whose core decodes an image. It gets at least what it would get beside
all other streams.

The system's scheduler shares cores between threads: beside two other programs that each keep a core busy, two streams
on two cores get half. Where others use the cores, one more stream runs, and gets a larger share; where none do, it
would make all slower.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.inference.queue.crowd import Crowd


@dataclass
class Running:
    """A batch that runs.

    takes_s: the seconds of the whole device that it should take.
    share: of the device that it may use, from more than 0 to 1.
    took_s: the seconds of the whole device that it has had.
    """

    takes_s: float
    share: float
    took_s: float = 0.0


class Streams:
    """The batches that run now. Each stream runs one at a time; the first takes work before the others do.

    Args:
        clock: tells the time in seconds.
        used: tells the processor time that this process has used, in seconds.

    The lock of the queue guards it; the number of batches may be read without, and a share by the thread that runs it.
    """

    def __init__(self, clock: Callable[[], float], used: Callable[[], float] = time.process_time) -> None:
        self.usual = 1
        """How many run where no other program uses the cores."""
        self.more = 0
        """How many more run where others do."""
        self.cores = 0
        """Cores that run batches and prepare work; 0 where batches run elsewhere."""
        self.preparers = 1
        """How many pieces of work are prepared at once, at most."""
        self._crowd = Crowd(clock, used)
        self.idle_since = math.inf
        """When the device became idle, or was last asked for work while idle; infinity while a batch runs."""
        self._clock = clock
        self._counted_until = clock()
        self._running: dict[int, Running] = {}

    @property
    def count(self) -> int:
        """How many batches may run side by side now."""
        return self.usual + (self.more if self._crowd.is_there else 0)

    @property
    def left_s(self) -> float:
        """Estimate the seconds of the whole device until all that runs has ended."""
        self._count()
        return sum(max(0.0, batch.takes_s - batch.took_s) for batch in self._running.values())

    def share(self, stream: int) -> float:
        """Return the share of the device, up to 1, that the batch of a stream may use."""
        return self._running[stream].share

    def expected(self, more: bool, preparing: int = 0) -> float:
        """Return how many times as long as alone a batch that begins next will take, at most.

        Args:
            more: more waits than that batch takes, so that there will always be another one.
            preparing: pieces of work that are being prepared.
        """
        return 1 / self._share(self.count if more else min(self.count, len(self._running) + 1), preparing)

    def _share(self, side_by_side: int, preparing: int) -> float:
        """Return the share of each of so many batches: of whole cores, where it is known how many there are."""
        if not self.cores:
            return 1 / side_by_side
        free = max(0, self.cores - min(preparing, self.preparers))
        return max(1, self.cores // self.count, free // side_by_side) / self.cores

    def is_next(self, stream: int) -> bool:
        """Whether a stream takes the next batch: all before it run. So a lone request finds the first one."""
        return stream < self.count and all(earlier in self._running for earlier in range(stream))

    def gathers(self, stream: int) -> bool:
        """Whether a stream may wait for work that is being prepared on its cores, because all other cores are busy."""
        return self.cores > 0 and len(self._running.keys() - {stream}) >= self.count - 1

    def begin(self, stream: int, takes_s: float, *, more: bool = False, preparing: int = 0) -> None:
        """Begin a batch.

        Args:
            stream: that runs it.
            takes_s: the seconds of the device that it should take.
            more: another batch waits.
            preparing: pieces of work that are being prepared.
        """
        self._count()
        share = self._share(min(self.count, len(self._running) + 1 + more), preparing)
        self._running[stream] = Running(takes_s, share)
        if self.cores and len(self._running) >= self.usual:
            self._crowd.begin(stream)
        self.idle_since = math.inf

    def end(self, stream: int) -> float:
        """End what the stream runs. Returns the seconds of the device that it took; 0 if it ran nothing."""
        self._count()
        batch = self._running.pop(stream, None)
        self._crowd.end(stream, self.cores)
        if not self._running:
            self.idle_since = self._clock()
        return batch.took_s if batch else 0.0

    def _count(self) -> None:
        """Add what each batch has had of the device since the last time: its share, and of n batches at most an nth."""
        now = self._clock()
        passed_s, self._counted_until = now - self._counted_until, now
        for batch in self._running.values():
            batch.took_s += passed_s * min(batch.share, 1 / len(self._running))
