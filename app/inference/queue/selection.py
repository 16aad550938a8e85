"""Which calls would miss their deadlines, by the forecast."""

import math
from collections.abc import Sequence
from typing import TypeVar

from app.inference.queue.forecast import Forecast
from app.inference.queue.work import Call, Entry

P = TypeVar("P")  # payload
A = TypeVar("A")  # answer


def ends_in_time(call: Call[P, A], cost: int, forecast: Forecast, now: float, beside: int) -> bool:
    """Whether work of this cost, begun now, ends by the deadline of its call; `beside` batches share the device."""
    largest = max(entry.work.cost for entry in call.entries)
    return now < call.asker.deadline and now + forecast.at_most(cost, beside, largest) <= _deadline(call)


def misses(batch: Sequence[Entry[P, A]], forecast: Forecast, now: float, beside: int) -> list[Call[P, A]]:
    """Return the calls to leave out, so that the rest of a batch, begun now beside others, ends in time.

    The rest is the largest possible: those with the nearest deadlines are left out. They could not run after it either.
    """
    ordered = sorted(batch, key=lambda entry: _deadline(entry.call), reverse=True)
    cost = 0
    for place, entry in enumerate(ordered):
        cost += entry.work.cost
        if now + forecast.at_most(cost, beside, cost) > _deadline(entry.call):
            return list({late.call: None for late in ordered[place:]})
    return []


def _deadline(call: Call[P, A]) -> float:
    return math.inf if call.trial else call.asker.deadline
