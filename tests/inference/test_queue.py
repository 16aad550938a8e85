"""Overload in simulated time: what cannot be answered in time is refused, and clients take turns."""

import asyncio
import math
from collections.abc import Callable

import pytest

from app.inference.queue.forecast import Forecast
from app.inference.queue.queue import TRIAL_S, Queue
from app.inference.queue.work import Asker, Call, NotInTime, QueueFull, Refused, Work, call_of
from tests.inference.simulation import Simulation

BUDGET = 2000
SECONDS = 40

DEVICES: dict[str, Callable[[int], float]] = {
    "in proportion": lambda cost: cost / 1000,
    "the same for all": lambda _: 2.0,
    "in between": lambda cost: 1 + cost / 2000,
}
"""Seconds of a batch of a cost; a full one takes two."""


def saturated(takes: Callable[[int], float], streams: int = 1) -> float:
    """Return the answers per second to clients that wait for as long as it takes."""
    simulation = Simulation(takes, math.inf, BUDGET, streams=streams)
    simulation.closed_loop("all", 64, SECONDS)
    return simulation.run().answered["all"] / simulation.now


@pytest.mark.parametrize("loop", ["open", "closed"])
@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize(("batches", "noise"), [(15, 0), (15, 0.3), (3, 0), (3, 0.3), (2, 0)])
@pytest.mark.parametrize("device", DEVICES)
def test_ten_times_the_load_leaves_the_rate_and_computes_next_to_nothing_in_vain(
    device: str, batches: float, noise: float, streams: int, loop: str
) -> None:
    """With a timeout of so many full batches, each of which takes up to `noise` more or less than the mean."""
    takes = DEVICES[device]
    rate = saturated(takes, streams)
    simulation = Simulation(takes, batches * 2 * streams, BUDGET, noise=noise, streams=streams)
    if loop == "open":
        simulation.open_loop("all", 10 * rate, SECONDS)
    else:
        simulation.closed_loop("all", 100, SECONDS)
    outcome = simulation.run()
    assert outcome.answered["all"] / simulation.now >= 0.9 * rate
    assert outcome.in_vain <= 0.03 * outcome.computed
    assert loop == "closed" or outcome.refused["all"] > outcome.answered["all"]


@pytest.mark.parametrize("greedy", [["greedy"], ["greedy", "another", "a third"]])
@pytest.mark.parametrize(("streams", "timeout_s"), [(1, 30), (1, 8), (2, 30), (2, 8)])
def test_beside_greedy_clients_a_polite_one_is_answered_within_two_batches(
    greedy: list[str], streams: int, timeout_s: float
) -> None:
    """Two full batches of each stream: those that run when it comes, and those that its own runs beside."""
    takes = DEVICES["in between"]
    simulation = Simulation(takes, timeout_s, BUDGET, streams=streams)
    for client in greedy:
        simulation.open_loop(client, 100, SECONDS)
    simulation.open_loop("polite", 1, SECONDS)
    outcome = simulation.run()
    assert outcome.answered["polite"] >= 0.95 * SECONDS
    assert outcome.percentile("polite", 99) <= takes(100) + 2 * streams * takes(BUDGET)
    assert sum(outcome.answered.values()) / simulation.now >= 0.9 * saturated(takes, streams)
    shares = [outcome.answered[client] for client in greedy]
    assert min(shares) >= 0.75 * max(shares)


@pytest.mark.parametrize("streams", [1, 2])
def test_an_image_that_is_larger_than_a_batch_is_not_computed_in_vain(streams: int) -> None:
    """It is one batch, which takes twice as long beside others; and it is still answered where there is time."""
    takes = DEVICES["in proportion"]
    for timeout_s in (25, 35):
        simulation = Simulation(takes, timeout_s, BUDGET, measured=(100, BUDGET, 10_000), streams=streams)
        simulation.closed_loop("small", 64, 200)
        for when in range(20, 180, 20):
            simulation.at(when, lambda: simulation.ask("large", 10_000))  # noqa: B023 - called within the loop
        outcome = simulation.run()
        assert outcome.late["large"] == 0
        assert outcome.in_vain <= 0.03 * outcome.computed
        assert outcome.answered["large"] >= 4 or (streams, timeout_s) == (2, 25)


def test_a_small_batch_that_runs_leaves_time_for_others() -> None:
    """Nothing waits, so the next one shares the device with it alone, however many streams there are."""
    bench = Bench(seconds_per_cost=0.2)
    bench.queue.streams.usual = 4
    bench.put("a", 1)
    assert bench.take() == [1]
    bench.put("b", 2, cost=10, within=5)  # takes two seconds, or four beside another


def test_without_turns_the_greedy_one_takes_everything() -> None:
    """The test above can fail."""
    simulation = Simulation(DEVICES["in between"], 30, BUDGET)
    simulation.open_loop("", 101, SECONDS)
    outcome = simulation.run()
    assert outcome.percentile("", 50) > 10


def test_turns_are_worth_the_same_cost_whatever_the_size_of_an_image() -> None:
    simulation = Simulation(DEVICES["in proportion"], 30, BUDGET)
    simulation.open_loop("large", 5, SECONDS, cost=1000)
    simulation.open_loop("small", 50, SECONDS, cost=100)
    outcome = simulation.run()
    assert 1000 * outcome.answered["large"] == pytest.approx(100 * outcome.answered["small"], rel=0.1)


class Bench:
    """A queue whose clock stands still, and a loop for its futures."""

    def __init__(self, max_cost: int | None = None, seconds_per_cost: float = 0.0) -> None:
        self.now = 1000.0
        self.loop = asyncio.new_event_loop()
        self.loop.close()  # futures belong to one; nothing runs on it
        self.queue: Queue[int, int] = Queue(max_cost, lambda: self.now)
        self.queue.forecast.budget = 10
        if seconds_per_cost:
            self.queue.forecast.observe(10, 10 * seconds_per_cost)

    def put(self, client: str, *payloads: int, cost: int = 1, within: float = math.inf) -> Call[int, int]:
        works = [Work(cost, payload) for payload in payloads]
        call: Call[int, int] = call_of(works, Asker(client, self.now + within), self.now, self.loop)
        self.queue.put(call)
        return call

    def take(self) -> list[int]:
        batch, _ = self.queue.take(lambda: 10)
        return [entry.work.payload for entry in batch]


def test_a_full_queue_makes_space_at_the_expense_of_who_holds_most() -> None:
    bench = Bench(max_cost=6)
    greedy = [bench.put("greedy", number) for number in range(6)]
    with pytest.raises(QueueFull):
        bench.put("greedy", 6)
    polite = bench.put("polite", 7)
    assert isinstance(greedy[5].entries[0].future.exception(), QueueFull)  # the newest one
    assert not any(call.entries[0].future.done() for call in [*greedy[:5], polite])
    bench.put("polite", 8)
    bench.put("polite", 9)
    with pytest.raises(QueueFull):  # each holds half of it
        bench.put("polite", 10)
    assert bench.queue.cost == 6
    bench.put("third", 11)  # and now a third
    bench.put("third", 12)
    with pytest.raises(QueueFull):
        bench.put("third", 13)


def test_space_that_is_reserved_is_given_to_others_too() -> None:
    bench = Bench(max_cost=4)
    reservations = [bench.queue.reserve(1, Asker("greedy")) for _ in range(4)]
    bench.put("polite", 1)
    assert [reservation.cost for reservation in reservations] == [1, 1, 1, 0]
    late: Call[int, int] = call_of([Work(1, 2)], Asker("greedy"), bench.now, bench.loop)
    with pytest.raises(QueueFull):
        bench.queue.put(late, reservations[3])
    for reservation in reservations:
        with reservation:
            pass
    assert bench.queue.cost == 1


def test_what_cannot_be_answered_in_time_is_refused_from_the_first_batch_on() -> None:
    bench = Bench(seconds_per_cost=1)
    bench.put("", 1, cost=10, within=30)
    assert bench.take() == [1]  # and it runs for ten seconds
    bench.put("", 2, cost=10, within=30)
    assert isinstance(bench.queue.refusal(10, Asker("", bench.now + 30)), NotInTime)
    with pytest.raises(NotInTime) as refused:
        bench.put("", 3, cost=10, within=30)
    assert refused.value.retry_after_s >= 1
    bench.put("", 4, cost=5, within=30)
    bench.put("", 5, cost=10, within=60)


def test_nothing_is_begun_that_cannot_end_in_time() -> None:
    bench = Bench(seconds_per_cost=1)
    early = bench.put("", 1, cost=6, within=20)
    bench.put("", 2, cost=6, within=20)
    bench.now += 15  # the batch before took longer than it should have
    later = bench.put("", 3, cost=4, within=20)
    batch, late = bench.queue.take(lambda: 10)
    assert [entry.call for entry in batch] == [later]
    assert len(late) == 2
    assert late[0] is early
    assert bench.queue.cost == 0


def test_of_a_request_that_cannot_end_in_time_no_image_is_computed() -> None:
    bench = Bench(seconds_per_cost=1)
    call = bench.put("", 1, 2, 3, cost=10, within=60)
    bench.now += 40
    batch, late = bench.queue.take(lambda: 10)
    assert (batch, late) == ([], [call])
    assert len(bench.queue) == 0


def test_an_estimate_that_refuses_everything_is_tried_again() -> None:
    bench = Bench(seconds_per_cost=100)
    bench.put("", 0)
    assert bench.take() == [0]
    bench.queue.close()
    assert bench.take() == []  # the device is idle from now on
    with pytest.raises(NotInTime):
        bench.put("", 1, within=30)
    bench.now += TRIAL_S + 1
    call = bench.put("", 2, within=30)
    assert call.trial
    with pytest.raises(Refused):
        bench.put("", 3, within=30)
    assert bench.take() == [2]
    bench.queue.forecast.observe(1, 0.1, restart=True)
    bench.take()
    bench.put("", 4, within=30)


def test_a_stall_during_one_batch_does_not_refuse_a_larger_request() -> None:
    bench = Bench()
    forecast = bench.queue.forecast
    forecast.budget = 1000
    forecast.observe(10, 0.1)  # before the first request
    forecast.observe(20, 10)  # the machine does something else for ten seconds
    bench.put("", 640, within=30)


def test_a_device_that_has_become_slow_is_known_after_some_batches() -> None:
    forecast = Forecast()
    for cost in (10, 100):
        forecast.observe(cost, cost * 0.01)
    for _ in range(10):
        forecast.observe(100, 50)
    assert forecast.seconds(100) > 25


def test_a_forecast_of_one_size_is_proportional_and_of_two_a_line() -> None:
    forecast = Forecast()
    assert forecast.at_most(1000) == 0
    forecast.observe(100, 1)
    assert forecast.seconds(1000) == pytest.approx(10)
    forecast.observe(800, 4.5)
    assert forecast.seconds(1500) == pytest.approx(8)
    for _ in range(50):
        forecast.observe(100, 1)
    assert forecast.seconds(1500) == pytest.approx(8)  # small batches do not make it forget the large ones
    forecast.budget = 1000
    assert forecast.seconds(2500) == pytest.approx(3 * 0.5 + 2500 * 0.005)
    assert forecast.at_most(2500) > forecast.seconds(2500)
    forecast.observe(900, 0.1)  # a line that falls is none
    assert forecast.seconds(10) >= 0


def test_a_batch_that_takes_no_time_by_the_clock_is_learned_from() -> None:
    forecast = Forecast()
    for cost, seconds in ((10, 0.0), (100, 1.0), (10, 0.0), (10, 1.0), (10, 1.0)):
        forecast.observe(cost, seconds)
    assert forecast.seconds(100) > 0
