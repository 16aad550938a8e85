"""What all connections share."""

from collections.abc import Callable

from uvicorn.server import ServerState

from app.http.connections.refusals import Refusals
from app.http.headers.origins import Origins


class Connections(ServerState):
    """What all connections share.

    Args:
        client_timeout_s: how long a request may take to arrive, and a client to read its response.
        keep_alive_s: how long a connection stays open after a response without another request.
        origins: those that may read the response to a request that no handler has seen.
        on_refused: called with the problem and the id of a request that no handler has seen; with its method and route
            if they are known.
    """

    def __init__(
        self,
        client_timeout_s: float,
        keep_alive_s: float,
        origins: Origins,
        on_refused: Callable[..., None],
    ) -> None:
        super().__init__()
        self.client_timeout_s = client_timeout_s
        self.keep_alive_s = keep_alive_s
        self.origins = origins
        self.on_refused = on_refused
        self.refusals = Refusals()
        self.leaving = False
        """Whether every response is to be the last one of its connection."""
