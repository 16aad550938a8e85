"""The OpenAPI document is correct: schemathesis calls the running service by it and checks the responses."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server import Server

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_every_answer_is_a_documented_one(server: Server) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen = set()
    for result in document.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # an error raises, as it should
        seen.add(operation.label)

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=30)

        call()
    assert {
        "POST /classify",
        "POST /embed",
        "POST /attention",
        "POST /preprocess",
        "GET /model",
        "GET /healthz",
        "GET /readyz",
    } <= seen
