"""A route that FastAPI documents but does not run: it parses the query, calls the endpoint and sends the response.

FastAPI's own request handling solves dependencies, reads the body and keeps stacks of resources to close. Endpoints
that take one `query` model and read their body themselves need none of this and would pay for it with every request.
"""

from functools import lru_cache
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from app.http.problems import invalid

CACHED_QUERIES = 64
"""Parsed query strings that each route caches. Few, because a client can send query strings of up to about 64 kB."""


class QueryRoute(APIRoute):
    """The route of an endpoint `(request, query) -> Response`, where `query` is a model of the query parameters."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        query: type[BaseModel] = get_type_hints(endpoint)["query"]
        # Clients repeat the same query string. The models are frozen, so requests can share them.
        self._parse = lru_cache(CACHED_QUERIES)(lambda text: query.model_validate(dict(parse_qsl(text, True))))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. FastAPI rejects those with another method."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            query = self._parse(scope["query_string"].decode("latin-1"))
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)[0], "query parameter") from error
        response = await self.endpoint(request, query)
        await response(scope, receive, send)
