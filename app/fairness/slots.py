"""A number of slots that clients take in turn, on the event loop."""

import asyncio

from app.fairness.client import CLIENT
from app.fairness.shares import Shares
from app.fairness.turns import Turns


class Slots:
    """Slots for work that a limited number of threads do.

    Args:
        count: how many there are.
        fair: clients take turns; otherwise first come, first served.
    """

    def __init__(self, count: int, fair: bool = True) -> None:
        self._free = count
        self._fair = fair
        self._wanted = Shares()
        self._waiting: Turns[asyncio.Future[None]] = Turns(1)

    @property
    def client(self) -> str:
        """The client whose request is running; the same for all where there are no turns."""
        return CLIENT.get() if self._fair else ""

    @property
    def ahead(self) -> int:
        """How many uses end before a new one of the running client."""
        return self._wanted.ahead(self.client, 1) - 1

    def expect(self, count: int) -> None:
        """Announce uses of the running client; a negative number takes them back, or says that they have ended."""
        self._wanted.add(self.client, count)

    async def take(self) -> None:
        """Wait for a slot."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        client, turn = self.client, asyncio.get_running_loop().create_future()
        self._waiting.add(client, 1, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            else:
                self._waiting.remove(client, {turn})
            raise

    def give_back(self) -> None:
        """Return a slot: the next client in turn gets it."""
        self._free += 1
        while self._waiting and self._free:
            turn = self._waiting.take()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
