"""How long the steps of a request take."""

import time
from dataclasses import dataclass, field


@dataclass
class Timings:
    """Seconds that the steps of a request took and when they ended; a step that did not run has none.

    `facts` are what else is known of the request: how many images, how many of them failed, their tokens.
    """

    spans: dict[str, float] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, seconds: float, ended_at: float | None = None) -> None:
        """Record a step that ended now or at another time of `perf_counter`; of several images the longest counts."""
        if seconds >= self.spans.get(name, 0.0):
            self.spans[name] = seconds
            self.ended_at[name] = time.perf_counter() if ended_at is None else ended_at
