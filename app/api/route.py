"""A route as FastAPI documents it, and as a straight line when it is asked: the query, the endpoint, the answer.

FastAPI's own way to an endpoint solves dependencies, reads bodies and keeps stacks of things to be closed. Endpoints
that take a `query` model and read their body themselves have none of these, and would pay for them with every request.
"""

from typing import Any, get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from app.problems import invalid


class QueryRoute(APIRoute):
    """The route of an endpoint `(request, query) -> Response`, where `query` is a model of the query parameters."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._query: type[BaseModel] = get_type_hints(endpoint)["query"]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; one of another method is left to FastAPI, to be refused."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            query = self._query.model_validate(dict(request.query_params))
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)[0], "query parameter") from error
        response = await self.endpoint(request, query)
        await response(scope, receive, send)
