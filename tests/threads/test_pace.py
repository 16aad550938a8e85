"""Work in the background rests after each piece, and a piece that comes later begins at once."""

import time

import pytest

from app.threads.pace import Pace


class Clock:
    """A time that moves only when somebody works, waits or sleeps; only work takes processor time."""

    def __init__(self) -> None:
        self.worked = self.waited = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return 100 + self.worked + self.waited + sum(self.slept)

    def work(self, pace: Pace, seconds: float, *, waits: float = 0.0, fails: bool = False) -> None:
        with pace:
            self.worked += seconds
            self.waited += waits
            if fails:
                raise ZeroDivisionError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made.monotonic)
    monkeypatch.setattr(time, "thread_time", lambda: made.worked)
    monkeypatch.setattr(time, "sleep", made.slept.append)
    return made


def test_a_piece_waits_for_a_multiple_of_the_one_before(clock: Clock) -> None:
    pace = Pace(2.5, 0.6)
    for _ in range(3):
        clock.work(pace, 0.1)
    assert clock.slept == pytest.approx([0, 0.25, 0.25])


def test_no_rest_is_longer_than_the_longest(clock: Clock) -> None:
    pace = Pace(2.5, 0.6)
    clock.work(pace, 9)
    clock.work(pace, 0.1)
    clock.waited += 0.5
    clock.work(pace, 0.1)
    assert clock.slept == pytest.approx([0, 0.6, 0])


def test_work_that_fails_is_rested_from_too(clock: Clock) -> None:
    pace = Pace(0.5, 5)
    with pytest.raises(ZeroDivisionError):
        clock.work(pace, 1 / 2, fails=True)
    clock.work(pace, 0.1)
    assert clock.slept == pytest.approx([0, 0.25])


def test_what_a_piece_waited_for_is_not_rested_from(clock: Clock) -> None:
    """A busy processor makes it take longer, and takes nothing from others."""
    pace = Pace(2.5, 5)
    clock.work(pace, 0.1, waits=3)
    clock.work(pace, 0.1)
    assert clock.slept == pytest.approx([0, 0.25])
