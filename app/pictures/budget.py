"""A weighted semaphore on the event loop, first come, first served."""

import asyncio
from collections import deque


class MemoryBudget:
    """An amount of memory that callers take and give back in portions.

    A caller that asks for more than the total waits until all of it is free.

    Args:
        total: the amount, in bytes.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, amount: int) -> int:
        """Wait for this amount and return how much to give back."""
        amount = min(amount, self._total)
        if not self._waiting and amount <= self._free:
            self._free -= amount
            return amount
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(amount)
            else:
                self._serve()
            raise
        return amount

    def give_back(self, amount: int) -> None:
        """Return an amount that was taken."""
        self._free += amount
        self._serve()

    def _serve(self) -> None:
        """Grant waiting requests in order, as far as the free memory reaches; skip those that were cancelled."""
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            amount, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= amount
                turn.set_result(None)
