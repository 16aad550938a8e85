"""Clients who ask without a pause, and what became of each request while the service was stopped."""

import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field

import httpx


@dataclass
class Load:
    """Clients on connections of their own, half of them on a new one for each request."""

    url: str
    picture: bytes
    clients: int = 16
    outcomes: dict[str, str] = field(default_factory=dict)  # request id -> status or the error's name
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to ask."""
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask nothing new, and wait for what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def counts(self) -> Counter[str]:
        """How many requests ended in which way."""
        return Counter(self.outcomes.values())

    def _ask(self, keep_alive: bool) -> None:
        headers = {} if keep_alive else {"Connection": "close"}
        with httpx.Client(base_url=self.url, timeout=60, headers=headers) as client:
            while not self._stop.is_set():
                name = uuid.uuid4().hex
                try:
                    answer = client.post("/embed", content=self.picture, headers={"X-Request-ID": name})
                    self.outcomes[name] = str(answer.status_code)
                except httpx.TransportError as error:
                    self.outcomes[name] = type(error).__name__
                if self.outcomes[name] != "200":
                    self._stop.wait(0.05)
