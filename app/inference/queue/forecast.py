"""How long batches take, from those that were measured.

The time of a batch is taken to be a + b * cost: a line through the measured times, one for each order of magnitude of
the cost, so that what is known of large batches is not forgotten while only small ones run. A magnitude that takes far
longer than before makes the others slower in proportion. An estimate that turned out wrong widens the margin, as in
TCP's retransmission timer (RFC 6298). A machine that stalls during one batch makes it take any time, and a larger
request would then seem to take longer than it may; so one batch counts for a few times its estimate at most. A device
that has really become slow is known after some batches.
"""

from collections.abc import Iterable

FRESH = 0.3
"""Weight of a new measurement beside the earlier ones of its magnitude."""

LEAST_MARGIN = 0.05
"""Share of an estimate that is added to it at least."""

FIRST_ERROR = 0.05
"""The relative error that is assumed before any was measured."""

MOST = 4.0
"""A batch counts for so many times its estimate at most."""

OTHER = 2.0
"""A batch that takes so many times its estimate, or the same part of it, tells that the device has changed."""

SHORTEST_S = 1e-4
"""No estimate is shorter than this beside what was measured, so that one of 0 can grow."""

ERROR_FRESH = 0.1
"""Weight of the error of one estimate beside those of earlier ones."""


class Forecast:
    """An estimate of the time that work takes, in seconds of a device that does nothing else.

    Written by one thread at a time, read by others: single values.

    budget: cost of the largest batch; 0 before it is known.
    """

    def __init__(self) -> None:
        self.budget = 0
        self._measured: dict[int, tuple[float, float]] = {}
        self._error = FIRST_ERROR
        self._line = (0.0, 0.0)

    def observe(self, cost: int, seconds: float, restart: bool = False) -> None:
        """Learn from a batch that has ended; with `restart`, forget all earlier ones first."""
        if restart:
            self._measured.clear()
        expected = max(self.seconds(cost), SHORTEST_S)
        if self._measured:
            seconds = min(seconds, MOST * expected)
        mean = float(cost), max(seconds, 1e-9)
        magnitude = cost.bit_length()
        if magnitude in self._measured:
            self._error += ERROR_FRESH * (min(1.0, abs(seconds - expected) / expected) - self._error)
            old_cost, old_seconds = self._measured[magnitude]
            mean = old_cost + FRESH * (cost - old_cost), old_seconds + FRESH * (seconds - old_seconds)
            if not 1 / OTHER < seconds / expected < OTHER:
                self._carry_over((old_cost, old_seconds), mean)
        self._measured[magnitude] = mean
        self._line = _fit(self._measured.values())

    def _carry_over(self, old: tuple[float, float], new: tuple[float, float]) -> None:
        """Let a device that became slower or faster at one magnitude be so at the others, which are measured less."""
        then, now = (seconds / self.seconds(cost) for cost, seconds in (old, new))
        for magnitude, (cost, seconds) in self._measured.items():
            self._measured[magnitude] = cost, seconds * now / then

    def seconds(self, cost: float) -> float:
        """Return how long work of this cost takes, in as many batches as it needs; 0 before a batch was measured."""
        fixed, each = self._line
        batches = max(1, -(-cost // self.budget)) if self.budget else 1
        return batches * fixed + each * cost

    def at_most(self, cost: int, beside: float = 1, largest: int = 0) -> float:
        """Return `seconds` with a margin for the error of the last batch of it.

        Args:
            cost: of the work.
            beside: how many times as long as alone the last batch of it takes, because others share the device.
            largest: the cost of the largest piece of the work, which may be more than the budget of a batch.
        """
        last = self.seconds(max(largest, min(cost, self.budget)) if self.budget else cost)
        takes_s = self.seconds(cost) + (beside - 1) * last
        return (1 + LEAST_MARGIN) * takes_s + 2 * self._error * beside * last


def _fit(measured: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return a and b, neither below 0, by least squares of the relative errors; one measurement alone gives b."""
    rows = [(1 / max(seconds, 1e-9), cost / max(seconds, 1e-9)) for cost, seconds in measured]
    xx, xy, yy = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    x, y = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = xx * yy - xy * xy
    if len(rows) > 1 and determinant > 0:
        fixed, each = (x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant
        if fixed >= 0 and each >= 0:
            return fixed, each
        if each < 0:
            return x / xx, 0.0
    return 0.0, y / yy
