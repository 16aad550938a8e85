"""How long batches take, from those that were measured, and when the device will be free.

The time of a batch is taken to be a + b * cost: a line through the measured times, one for each order of magnitude of
the cost, so that what is known of large batches is not forgotten while only small ones run. An estimate that turned out
wrong widens the margin, as in TCP's retransmission timer (RFC 6298).
"""

from collections.abc import Iterable

FRESH = 0.3
"""Weight of a new measurement beside the earlier ones of its magnitude."""

LEAST_MARGIN = 0.05
"""Share of an estimate that is added to it at least."""

FIRST_ERROR = 0.05
"""The relative error that is assumed before any was measured."""

ERROR_FRESH = 0.1
"""Weight of the error of one estimate beside those of earlier ones."""


class Forecast:
    """An estimate of the time that work takes. Written by the device thread, read by others: single values.

    budget: cost of the largest batch; 0 before it is known.
    """

    def __init__(self) -> None:
        self.budget = 0
        self.free_at = 0.0
        """When the batch that runs will have ended, by the queue's clock."""
        self._measured: dict[int, tuple[float, float]] = {}
        self._error = FIRST_ERROR
        self._line = (0.0, 0.0)

    def observe(self, cost: int, seconds: float, restart: bool = False) -> None:
        """Learn from a batch that has ended; with `restart`, forget all earlier ones first."""
        if restart:
            self._measured.clear()
        magnitude = cost.bit_length()
        if magnitude in self._measured:
            expected = max(self.seconds(cost), 1e-9)
            self._error += ERROR_FRESH * (min(1.0, abs(seconds - expected) / expected) - self._error)
        old_cost, old_seconds = self._measured.get(magnitude, (cost, seconds))
        mean = old_cost + FRESH * (cost - old_cost), old_seconds + FRESH * (seconds - old_seconds)
        self._measured[magnitude] = mean
        self._line = _fit(self._measured.values())

    def seconds(self, cost: int) -> float:
        """Return how long work of this cost takes, in as many batches as it needs; 0 before a batch was measured."""
        fixed, each = self._line
        batches = max(1, -(-cost // self.budget)) if self.budget else 1
        return batches * fixed + each * cost

    def at_most(self, cost: int) -> float:
        """Return `seconds` with a margin for the error of the last batch of it."""
        last = min(cost, self.budget) if self.budget else cost
        return (1 + LEAST_MARGIN) * self.seconds(cost) + 2 * self._error * self.seconds(last)


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
