"""How much of something each client holds, and what that means for the next one who asks."""


class Shares:
    """The cost that each client holds; not synchronised."""

    def __init__(self) -> None:
        self.total = 0
        """What all clients hold together."""
        self._held: dict[str, int] = {}

    def of(self, client: str) -> int:
        """Return what a client holds."""
        return self._held.get(client, 0)

    def add(self, client: str, cost: int) -> None:
        """Let a client hold this much more, or less if it is negative."""
        self.total += cost
        self._held[client] = self.of(client) + cost
        if not self._held[client]:
            del self._held[client]

    def ahead(self, client: str, cost: int) -> int:
        """Return how much is done until this client has what it holds and `cost` more, if all take turns.

        Of each other client no more is done than of this one.
        """
        own = self.of(client) + cost
        return own + sum(min(own, held) for other, held in self._held.items() if other != client)

    def largest(self) -> str:
        """Return the client that holds most. Raises ValueError if nobody holds anything."""
        return max(self._held, key=self.of)
