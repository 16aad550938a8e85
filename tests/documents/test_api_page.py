"""docs/api.md says what the OpenAPI document of a running server and the code say, and nothing else."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.errors import STATUSES
from app.http.headers.origins import EXPOSED_HEADERS
from app.schemas import ResolutionQuery
from app.settings import Settings
from tests.server import ROOT, Server

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^#{2,3} (GET|POST|PUT|DELETE) (/\S*)$", re.MULTILINE)
OPERATIONS = {(method.lower(), path) for method, path in HEADING.findall(PAGE)}
RESOLUTION = "[resolution parameters](#resolution)"
JSON = "application/json"


def named(text: str) -> list[str]:
    """Return what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def section(method: str, path: str) -> str:
    """Return the text of an endpoint's section, up to the next heading."""
    _, found, rest = PAGE.partition(f" {method.upper()} {path}\n")
    assert found, f"there is no section for {method.upper()} {path}"
    return re.split(r"^#{2,3} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str, head: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables whose first column has this head."""
    for table in re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            yield [cell.strip() for cell in row.strip("|").split(" | ")]


def first_column(text: str, head: str) -> set[str]:
    return {name for cells in rows(text, head) for name in named(cells[0])}


def parameters(text: str) -> set[str]:
    common = set(ResolutionQuery.model_fields) if RESOLUTION in text else set()
    return first_column(text, "parameter") | common


CODES = {named(cells[1])[0]: int(cells[0]) for cells in rows(PAGE, "status")}
IMAGE_ERRORS = set(named(PAGE.split("**Image errors.**")[1].split("\n\n")[0]))


def errors(text: str) -> set[str]:
    """Return the codes that a section lists."""
    (line,) = re.findall(r"^Errors: (.*)$", text, re.MULTILINE)
    return set(named(line)) | (IMAGE_ERRORS if "image errors" in line else set())


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return httpx.get(f"{server.url}/openapi.json").json()


@pytest.fixture(scope="module")
def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {(method, path): found for path, item in document["paths"].items() for method, found in item.items()}


def test_it_has_every_operation_and_no_other(operations: dict[tuple[str, str], Any]) -> None:
    assert set(operations) == OPERATIONS


def test_it_has_every_code_with_its_status_and_no_other() -> None:
    assert CODES == STATUSES
    for name in re.findall(r"Errors: .*", PAGE):
        assert set(named(name)) <= set(STATUSES), name
    assert set(STATUSES) >= IMAGE_ERRORS


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_a_section_has_every_parameter_and_no_other(
    operations: dict[tuple[str, str], Any], method: str, path: str
) -> None:
    documented = {parameter["name"] for parameter in operations[method, path].get("parameters", ())}
    assert parameters(section(method, path)) == documented


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_a_section_has_the_values_and_the_default_of_a_parameter(
    operations: dict[tuple[str, str], Any], method: str, path: str
) -> None:
    text = section(method, path) + PAGE.split("## Resolution")[1].split("\n## ")[0]
    table = {name: cells for cells in rows(text, "parameter") for name in named(cells[0])}
    for parameter in operations[method, path].get("parameters", ()):
        schema, cells = parameter["schema"], table[parameter["name"]]
        if cells[1] == "as for `/embed`":
            continue
        choices = {choice for part in (schema, *schema.get("anyOf", ())) for choice in part.get("enum", ())}
        if choices:
            assert set(named(cells[1])) == choices
        if schema.get("default") not in (None, ""):
            assert cells[2].strip("`") == str(schema["default"]).lower()


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_a_section_has_every_status_and_code(operations: dict[tuple[str, str], Any], method: str, path: str) -> None:
    """The page may list a code more than the document where one status has several."""
    responses = {status: found for status, found in operations[method, path]["responses"].items() if status != "200"}
    codes = {
        code for found in responses.values() for body in found["content"].values() for code in body.get("examples", ())
    }
    listed = errors(section(method, path))
    assert listed >= codes
    assert {STATUSES[code] for code in listed} == {int(status) for status in responses}


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_a_section_has_every_member_of_a_json_body(
    document: Any, operations: dict[tuple[str, str], Any], method: str, path: str
) -> None:
    content = operations[method, path].get("requestBody", {}).get("content", {})
    members = set(content[JSON]["schema"]["properties"]) if JSON in content else set()
    if method == "post":
        assert first_column(section(method, path), "member") == members


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_a_section_has_every_member_of_a_json_answer(
    document: Any, operations: dict[tuple[str, str], Any], method: str, path: str
) -> None:
    schema = operations[method, path]["responses"]["200"]["content"].get(JSON, {}).get("schema", {})
    text = section(method, path)
    for name in members_of(document, schema) - members_of(document, {"$ref": "#/components/schemas/Problem"}):
        assert re.search(rf'[`"]{name}[`"]', text), f"{name} of {path}"


def members_of(document: Any, schema: Any) -> set[str]:
    """Return the names of all members of a schema and of what it refers to."""
    if isinstance(schema, list):
        return {name for part in schema for name in members_of(document, part)}
    if not isinstance(schema, dict):
        return set()
    if reference := schema.get("$ref"):
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        if reference.endswith("/Failed"):
            return set()  # `error` is described with the errors
    names = set(schema.get("properties", ()))
    parts = [*schema.get("properties", {}).values(), *(schema.get(key, []) for key in ("anyOf", "items"))]
    return names | members_of(document, parts)


def test_every_media_type_of_an_image_endpoint_is_named(operations: dict[tuple[str, str], Any]) -> None:
    for (method, path), operation in operations.items():
        for media in operation["responses"]["200"]["content"]:
            if media not in {JSON, "text/plain"}:
                text = section(method, path) + PAGE.split("## Headers")[1]
                assert media in text, f"{media} of {path}"


def test_the_model_has_the_members_that_it_lists(client: httpx.Client) -> None:
    assert first_column(section("get", "/model"), "member") == set(client.get("/model").json())


def test_every_header_that_other_origins_may_read_is_listed() -> None:
    response = PAGE.split("Of the response:")[1]
    assert first_column(response, "header") >= set(EXPOSED_HEADERS)
    assert first_column(response, "header") - set(EXPOSED_HEADERS) == {"WWW-Authenticate", "Allow"}


def test_headers_come_where_they_are_said_to_come(client: httpx.Client, cat: bytes) -> None:
    """Their members, too."""
    listed = {
        named(cells[0])[0]: (cells[1], set(named(cells[2])))
        for cells in rows(PAGE.split("Of the response:")[1], "header")
    }
    for path in ("attention", "preprocess"):
        answer = client.post(f"/{path}", content=cat)
        assert answer.headers["content-type"] == "image/png"
        for name, (where, members) in listed.items():
            if name.startswith("Vitrine-") and name != "Vitrine-Fingerprint":
                expected = where == "PNG answers" or where.endswith(f"`/{path}`")
                assert (name in answer.headers) == expected, f"{name} of {path}"
                if expected:
                    assert set(re.findall(r"([\w-]+)=", answer.headers[name])) == members


def test_every_setting_that_is_named_exists() -> None:
    limits = PAGE.split("## Limits")[1].split("\n## ")[0]
    settings = [name for name in named(limits) if re.fullmatch(r"[a-z_]+", name) and name not in STATUSES]
    assert {name for name in settings if name not in Settings.model_fields} <= {"fast", "exact"}


def test_the_defaults_of_the_limits_are_those_of_the_settings() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    table = {named(cells[1])[0]: cells[2] for cells in rows(PAGE, "limit") if cells[1].startswith("`")}
    for name in ("max_images_per_request", "max_tokens_per_image", "receive_timeout_s", "request_timeout_s"):
        assert table[name] == f"{defaults[name]:g}"
    assert table["max_upload_bytes"] == f"{defaults['max_upload_bytes'] // 2**20} MiB"
    assert table["max_pixels"].startswith(f"{defaults['max_pixels'] // 10**6} million")
    assert table["drain_timeout_s"] == f"{defaults['drain_timeout_s']:g}"
