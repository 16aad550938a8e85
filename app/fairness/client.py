"""The client whose request is running."""

from contextvars import ContextVar

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""Its name: one for each API key or address. Tasks that a request starts inherit it; what serves no request, such as a
collection, has the empty name."""
