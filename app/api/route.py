"""Routes that ignore no query parameter: an unknown one is refused by its name, and so is one that is given twice.

A `QueryRoute` is one that FastAPI documents but does not run: it parses the query, calls the endpoint and sends the
response. FastAPI's own request handling solves dependencies, reads the body and keeps stacks of resources to close.
Endpoints that take one `query` model and read their body themselves need none of this and would pay for it with every
request.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from app.errors import Problem
from app.http.problems import invalid
from app.wording import shown

CACHED_QUERIES = 64
"""Parsed query strings that each route caches. Few, because a client can send query strings of up to about 64 kB."""


class StrictRoute(APIRoute):
    """A route that refuses query parameters that it does not have."""

    elsewhere = ""
    """Where parameters belong that are not in the query; ends the sentence of a refusal of POST."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.query_names = tuple(_names_of(self))
        """The query parameters that the route has."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, unless it has a parameter that would be ignored."""
        if scope["method"] in (self.methods or ()) and scope["query_string"]:
            self.parameters(scope["query_string"])
        await super().handle(scope, receive, send)

    def parameters(self, query: bytes) -> dict[str, str]:
        """Return the query's parameters. Raises Problem for one that the route does not have, or that comes twice."""
        hint = self.elsewhere if "POST" in (self.methods or ()) else ""
        return parameters_of(query.decode("latin-1"), "query parameter", self.query_names, hint)


def strict_route(elsewhere: str) -> type[StrictRoute]:
    """Return a kind of route for an API whose parameters are not all in the query; `elsewhere` says where they are."""
    return type("_StrictRoute", (StrictRoute,), {"elsewhere": elsewhere})


class QueryRoute(StrictRoute):
    """The route of an endpoint `(request, query) -> Response`, where `query` is a model of the query parameters."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        query: type[BaseModel] = get_type_hints(endpoint)["query"]
        # Clients repeat the same query string. The models are frozen, so requests can share them.
        self._parse = lru_cache(CACHED_QUERIES)(lambda text: query.model_validate(self.parameters(text)))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. FastAPI rejects those with another method."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            query = self._parse(scope["query_string"])
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)[0], "query parameter") from error
        response = await self.endpoint(request, query)
        await response(scope, receive, send)


def parameters_of(text: str, what: str, allowed: Collection[str] | None = None, hint: str = "") -> dict[str, str]:
    """Return the parameters of a query string. Raises Problem for one that comes twice, or that is not allowed.

    Args:
        text: the query string, without its question mark.
        what: what the parameters are called, such as "query parameter".
        allowed: the names that may come; None for any.
        hint: how the sentence about another name ends: where it might belong.
    """
    found: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if allowed is not None and name not in allowed:
            others = f"allowed are {', '.join(allowed)}" if allowed else "this path has none"
            raise Problem("unknown_parameter", f"unknown {what} {shown(name)}; {others}{hint and f'; {hint}'}")
        if name in found:
            raise Problem("invalid_parameter", f"the {what} {shown(name)} is given twice")
        found[name] = value
    return found


def _names_of(route: APIRoute) -> Iterator[str]:
    """Yield the names of a route's query parameters; a model of them has one for each of its fields."""
    for parameter in route.dependant.query_params:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields
        else:
            yield parameter.alias
