"""Generate valid and invalid requests from the OpenAPI document: each dialect answers as documented."""

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.server import Server

DIALECTS = r"^/(v1|v2|pipeline|ping|invocations)(/|$)"
FEW = settings(max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="session")
def document(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def routes(document: Any) -> list[Any]:
    return [found.ok() for found in document.include(path_regex=DIALECTS).get_all_operations()]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_route_answers_as_documented(document: Any, mode: GenerationMode) -> None:
    called = set()

    def answers_as_documented(case: Any) -> None:
        called.add(case.operation.label)
        # No schema can require a string to be an image, so valid requests may fail. Other tests check valid images.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    # The GET routes have no input that could be invalid.
    chosen = [route for route in routes(document) if mode is GenerationMode.POSITIVE or route.method == "post"]
    for route in chosen:
        FEW(given(case=route.as_strategy(generation_mode=mode))(answers_as_documented))()
    assert called == {route.label for route in chosen}


def test_every_other_route_is_a_main_endpoint(document: Any) -> None:
    assert {path for path in document.raw_schema["paths"] if not re.match(DIALECTS, path)} == {
        *("/classify", "/embed", "/attention", "/preprocess", "/model", "/healthz", "/readyz", "/metrics"),
        *("/heads", "/heads/{name}", "/heads/{name}/examples"),
    }
