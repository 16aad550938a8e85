"""Measure how long the steps of a request take."""

import time
from dataclasses import dataclass, field


@dataclass
class Timings:
    """The timings of a request.

    spans: the seconds that each step took; a step that did not run is missing.
    ended_at: when each step ended, by `time.perf_counter`.
    facts: other numbers of the request: its images, how many of them failed, and their tokens.
    """

    spans: dict[str, float] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, seconds: float, ended_at: float | None = None) -> None:
        """Record a step, of the slowest image if there are several.

        Args:
            name: the step.
            seconds: how long it took.
            ended_at: when it ended, by `time.perf_counter`; None is now.
        """
        if seconds >= self.spans.get(name, 0.0):
            self.spans[name] = seconds
            self.ended_at[name] = time.perf_counter() if ended_at is None else ended_at
