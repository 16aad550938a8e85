"""Work in the background rests after each piece, and a piece that comes later begins at once."""

import time

import pytest

from app.threads.pace import Pace


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping and working move, and what was slept."""
    found: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 100 + sum(found) + worked[0])
    monkeypatch.setattr(time, "sleep", found.append)
    return found


worked = [0.0]


def work(pace: Pace, seconds: float, *, fails: bool = False) -> None:
    with pace:
        worked[0] += seconds
        if fails:
            raise ZeroDivisionError


def test_a_piece_waits_for_a_multiple_of_the_one_before(slept: list[float]) -> None:
    pace = Pace(2.5, 0.6)
    for _ in range(3):
        work(pace, 0.1)
    assert slept == pytest.approx([0, 0.25, 0.25])


def test_no_rest_is_longer_than_the_longest(slept: list[float]) -> None:
    pace = Pace(2.5, 0.6)
    work(pace, 9)
    work(pace, 0.1)
    worked[0] += 0.5
    work(pace, 0.1)
    assert slept == pytest.approx([0, 0.6, 0])


def test_work_that_fails_is_rested_from_too(slept: list[float]) -> None:
    pace = Pace(0.5, 5)
    with pytest.raises(ZeroDivisionError):
        work(pace, 1 / 2, fails=True)
    work(pace, 0.1)
    assert slept == pytest.approx([0, 0.25])
