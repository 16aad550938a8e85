"""A route as FastAPI documents it, and as a straight line when it is asked: the query, the endpoint, the answer.

FastAPI's own way to an endpoint solves dependencies, reads bodies and keeps stacks of things to be closed. Endpoints
that take a `query` model and read their body themselves have none of these, and would pay for them with every request.
"""

from functools import lru_cache
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from app.http.problems import invalid

QUERIES = 64
"""Queries that a route remembers what they mean; a client may write some 64 kB into one."""


class QueryRoute(APIRoute):
    """The route of an endpoint `(request, query) -> Response`, where `query` is a model of the query parameters."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        query: type[BaseModel] = get_type_hints(endpoint)["query"]
        # Clients ask the same again and again; models of a query are only read.
        self._query = lru_cache(QUERIES)(lambda written: query.model_validate(dict(parse_qsl(written, True))))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one of another method is left to FastAPI, to be refused."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            query = self._query(scope["query_string"].decode("latin-1"))
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)[0], "query parameter") from error
        response = await self.endpoint(request, query)
        await response(scope, receive, send)
