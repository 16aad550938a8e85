"""Turns, shares and slots by themselves, and the names of clients."""

import asyncio
from contextvars import copy_context

import pytest

from app.fairness.client import CLIENT
from app.fairness.shares import Shares
from app.fairness.slots import Slots
from app.fairness.turns import Turns
from app.http.client import client_at


def test_items_of_one_client_leave_in_their_order_and_those_of_several_in_turn() -> None:
    turns: Turns[str] = Turns(2)
    for number in range(4):
        turns.add("greedy", 1, f"greedy {number}")
    turns.add("polite", 1, "polite 0")
    turns.add("large", 5, "large 0")
    assert len(turns) == 6
    assert [turns.take() for _ in range(6)] == ["greedy 0", "greedy 1", "polite 0", "greedy 2", "greedy 3", "large 0"]
    assert not turns


def test_what_is_removed_leaves_no_turn_behind() -> None:
    turns: Turns[str] = Turns(2)
    turns.add("a", 3, "first")
    turns.add("a", 1, "second")
    turns.add("b", 1, "third")
    assert turns.newest("a") == "second"
    assert turns.remove("a", {"first", "second", "never there"}) == 4
    assert turns.remove("a", {"first"}) == 0
    assert turns.newest("a") is None
    assert list(turns) == ["third"]
    assert turns.next_cost() == 1


def test_of_another_client_no_more_is_ahead_than_of_ones_own() -> None:
    shares = Shares()
    shares.add("greedy", 100)
    shares.add("small", 2)
    assert shares.ahead("new", 5) == 5 + 5 + 2
    assert shares.ahead("greedy", 1) == 101 + 2
    assert shares.largest() == "greedy"
    shares.add("greedy", -100)
    assert (shares.total, shares.of("greedy"), shares.largest()) == (2, 0, "small")


@pytest.mark.parametrize(
    ("fair", "order"), [(True, ["greedy", "polite", "greedy"]), (False, ["greedy", "greedy", "polite"])]
)
def test_slots_are_given_in_turn_and_cancelled_waits_do_not_keep_one(fair: bool, order: list[str]) -> None:
    async def scenario() -> list[str]:
        slots, got = Slots(1, fair), []

        async def use(client: str) -> None:
            await slots.take()
            got.append(client)
            slots.give_back()

        def start(client: str) -> asyncio.Task[None]:
            context = copy_context()
            context.run(CLIENT.set, client)
            return asyncio.get_running_loop().create_task(use(client), context=context)

        await slots.take()
        waiting = [start("greedy")]
        await asyncio.sleep(0)
        leaves = start("greedy")
        await asyncio.sleep(0)
        waiting += [start("greedy"), start("polite")]
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.sleep(0)
        slots.give_back()
        await asyncio.gather(*waiting)
        await slots.take()  # all are back
        return got

    assert asyncio.run(scenario()) == order


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_address_names_a_client_and_a_network_of_ipv6_is_one(address: str, client: str) -> None:
    assert client_at(address) == client
