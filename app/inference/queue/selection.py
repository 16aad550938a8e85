"""Which calls would miss their deadlines, by the forecast, and how long a batch waits for more.

On a CPU images are decoded on the cores that run the network. A batch that begins while others are being decoded keeps
them from it, and after it the next one finds as few. With ViT-S in 8 bits, two streams on two cores and 8 clients, a
batch had 2.1 images, and has 3.2 when it waits; 32 clients always leave enough.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from app.inference.queue.forecast import Forecast
from app.inference.queue.work import Call, Entry

P = TypeVar("P")  # payload
A = TypeVar("A")  # answer

PATIENCE = 0.25
"""How long a batch waits for work that is being prepared, at most, as a share of the time that it takes itself. Twice
or four times as long made no difference beyond the noise."""


def ends_in_time(call: Call[P, A], cost: int, forecast: Forecast, now: float, beside: float) -> bool:
    """Whether work of this cost, begun now, ends by the deadline of its call; `beside` is as in `Forecast.at_most`."""
    largest = max(entry.work.cost for entry in call.entries)
    return now < call.asker.deadline and now + forecast.at_most(cost, beside, largest) <= _deadline(call)


def misses(batch: Sequence[Entry[P, A]], forecast: Forecast, now: float, beside: float) -> list[Call[P, A]]:
    """Return the calls to leave out, so that the rest of a batch, begun now, ends in time; `beside` is as above.

    The rest is the largest possible: those with the nearest deadlines are left out. They could not run after it either.
    """
    ordered = sorted(batch, key=lambda entry: _deadline(entry.call), reverse=True)
    cost = 0
    for place, entry in enumerate(ordered):
        cost += entry.work.cost
        if now + forecast.at_most(cost, beside, cost) > _deadline(entry.call):
            return list({late.call: None for late in ordered[place:]})
    return []


def patience_s(calls: Iterable[Call[P, A]], waits: int, forecast: Forecast, now: float, beside: float) -> float:
    """Return how many seconds from now work of this cost, all that waits, may wait for more to join it.

    Nothing waits that would then be late, and a full batch does not wait.
    """
    if waits >= forecast.budget:
        return 0.0
    longest_s = PATIENCE * forecast.seconds(waits)
    waiting = all(ends_in_time(call, call.waiting, forecast, now + longest_s, beside) for call in calls)
    return longest_s if waiting else 0.0


def _deadline(call: Call[P, A]) -> float:
    return math.inf if call.trial else call.asker.deadline
