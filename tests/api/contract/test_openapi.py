"""The OpenAPI document is valid and describes exactly what is served."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from guidsvc.api.app import make_app
from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import problems
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.contract.schemas import Change, Creation, Operation, Patch
from guidsvc.api.docs import openapi_document as openapi
from guidsvc.api.docs.problem_catalog import EXPLANATIONS
from guidsvc.api.routing import Route
from guidsvc.domain.commands import ListQuery
from guidsvc.domain.commands.list_parameters import Position, parse_cursor, render_cursor
from guidsvc.domain.record import EXAMPLE_GUID, MAX_TIME
from guidsvc.http.constants import NDJSON
from tests.conftest import Serving
from tests.support.api_context import request_pipeline
from tests.support.api_document import DOCUMENT, RENDERED, ROUTES, check, with_all_methods
from tests.support.backing_servers import ROOT

pytestmark = pytest.mark.both_servers

MAX_BYTES = 157_000
NOT_OF_AN_OPERATION = {"MethodNotAllowedProblem", "NotImplementedProblem", "HttpVersionNotSupportedProblem"}
"""Problems that no operation returns, since its method or HTTP version has no operation."""


def accepts(schema: dict[str, Any], value: object) -> bool:
    """Whether a value is valid for a schema of the document."""
    return jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).is_valid(value)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of the document."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation_object in item.items():
            yield path, method.upper(), operation_object


def examples(node: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each example in a part of the document, with its schema."""
    if isinstance(node, list):
        for child in node:
            yield from examples(child)
    elif isinstance(node, dict):
        if "schema" in node:
            yield from ((child["value"], node["schema"]) for child in node.get("examples", {}).values())
            yield from ((node[name], node["schema"]) for name in ("example",) if name in node)
        elif "properties" in node:
            yield from ((child, node) for child in node.get("examples", []))
        for child in node.values():
            yield from examples(child)


async def test_document_is_served_as_rendered_once(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.get("/openapi.json")
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.body == RENDERED
        condition = {"If-None-Match": reply.headers["ETag"]}
        revalidation = await client.get("/openapi.json", headers=condition)
        assert (revalidation.status, revalidation.headers["ETag"]) == (304, reply.headers["ETag"])
        head = await client.ask("HEAD", "/openapi.json")
        assert (head.status, head.headers["ETag"]) == (200, reply.headers["ETag"])


@pytest.mark.slow
def test_document_is_valid_openapi() -> None:
    import openapi_spec_validator  # takes a second of CPU to import

    assert DOCUMENT["openapi"].startswith("3.1.")
    for document in (json.loads(RENDERED), with_all_methods(DOCUMENT)):
        openapi_spec_validator.validate(document)


def test_document_is_small_and_every_component_is_used() -> None:
    assert len(RENDERED) < MAX_BYTES
    for kind, components in json.loads(RENDERED)["components"].items():
        unused = {name for name in components if f'"#/components/{kind}/{name}"'.encode() not in RENDERED}
        assert unused == (NOT_OF_AN_OPERATION if kind == "schemas" else set())


def test_service_starts_without_the_openapi_library() -> None:
    code = "import guidsvc.bootstrap.app, sys; sys.exit('openapi_pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_document_describes_exactly_the_served_operations() -> None:
    """Except HEAD and OPTIONS, which follow from the other methods of a path."""
    served = {(route.path, method) for route in ROUTES for method in route.handler.methods()}
    described = {(path, method) for path, method, _ in operations()}
    derived = {(path, method.upper()) for path, item in with_all_methods(DOCUMENT)["paths"].items() for method in item}

    assert described == {(path, method) for path, method in served if method not in {"HEAD", "OPTIONS"}}
    assert derived == served


async def test_head_is_answered_like_get_without_a_body(serving: Serving) -> None:
    async with serving() as client:
        for path, item in DOCUMENT["paths"].items():
            if "get" in item:
                names = {
                    parameter["name"]: parameter["example"]
                    for parameter in item["get"]["parameters"]
                    if parameter["in"] == "path"
                }
                get, head = await client.get(path.format(**names)), await client.ask("HEAD", path.format(**names))
                assert (head.status, head.body) == (get.status, b""), path
                assert head.headers["Content-Type"] == get.headers["Content-Type"], path


@pytest.mark.parametrize("is_public", [True, False])
def test_lock_is_shown_where_a_key_is_required(*, is_public: bool) -> None:
    document = json.loads(openapi.render(ROUTES, lambda _: is_public))
    locked = {
        described["operationId"]
        for item in document["paths"].values()
        for described in item.values()
        if described.get("security") == [{"key": []}]
    }
    guarded = {
        method.id
        for route in ROUTES
        for method in openapi.methods_of(route)
        if method.operation.required_scope and method.name not in {"HEAD", "OPTIONS"}
    }

    assert locked == (set() if is_public else guarded)
    assert (b"security" in RENDERED) is False
    assert ("securitySchemes" in document["components"]) is not is_public


async def test_served_document_shows_locks_only_with_access(serving: Serving) -> None:
    for access, locked in (("off", set()), ("keys", {"/metrics", "/guid"})):
        async with serving(access=access) as client:
            paths = (await client.get("/openapi.json")).json["paths"]
            assert {path for path in ("/metrics", "/guid", "/docs") if "security" in paths[path]["get"]} == locked
    async with serving(access="keys", public_metrics=True) as client:
        paths = (await client.get("/openapi.json")).json["paths"]
        assert "security" not in paths["/metrics"]["get"]
        assert "security" in paths["/guid"]["get"]


def test_no_schema_has_a_member_of_its_own_name() -> None:
    """Generated clients name modules after schemas, and variables after members: the two would hide each other."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        module = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
        assert module not in schema["properties"], name


def test_no_member_of_a_body_has_a_default() -> None:
    """To generators for TypeScript, a member with a default is required."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert not any("default" in member for member in schema["properties"].values()), name


def test_application_routes_match_described_paths() -> None:
    app = make_app(request_pipeline())  # gets no requests
    matched = {rule.matcher.regex.pattern for rule in app.wildcard_router.rules}  # type: ignore[attr-defined]

    assert matched == {re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(path)) + "$" for path in DOCUMENT["paths"]}


def test_operation_has_unique_name_summary_and_description() -> None:
    names = [described["operationId"] for _, _, described in operations()]

    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z]+[A-Z][A-Za-z]+", name) for name in names)
    assert all(described["summary"] and described["description"] for _, _, described in operations())


def test_every_problem_is_described() -> None:
    described = {
        schema["properties"]["code"].get("const")
        for schema in DOCUMENT["components"]["schemas"].values()
        if "code" in schema["properties"]
    }
    kinds = {*problems.TABLE.values(), problems.INTERNAL}

    assert {kind.code for kind in kinds} <= described


def test_every_problem_is_a_response_of_some_operation() -> None:
    responses = [response for _, _, described in operations() for response in described["responses"].values()]
    problem_codes = {
        code
        for response in responses
        for media in response.get("content", {}).values()
        for code in media.get("examples", {})
    }

    assert problem_codes == EXPLANATIONS.keys() - {
        "method-not-allowed",
        "not-implemented",
        "http-version-not-supported",
    }


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Content-Type-Options"])
def test_every_response_declares_the_common_headers(name: str) -> None:
    for _, _, described in operations():
        assert all(response["headers"][name]["required"] for response in described["responses"].values())


def test_every_example_matches_its_schema() -> None:
    all_examples = list(examples(DOCUMENT))

    assert len(all_examples) > 100
    for value, schema in {
        json.dumps(pair): pair for pair in all_examples
    }.values():  # each once: most occur in many places
        check(value, schema)


@pytest.mark.parametrize("model", [Change, Creation, Operation, Patch])
def test_body_examples_are_valid_for_their_models(model: type[BaseModel]) -> None:
    for body in DOCUMENT["components"]["schemas"][model.__name__]["examples"]:
        model.model_validate(body, context={"guid": EXAMPLE_GUID})


class Batch(Handler):
    """A handler without a route in the service."""

    label = "guids"

    @operation("runBatch", "Do much", ResponseSpec(200, "Done."), body=Change, other={NDJSON: "A change a line."})
    async def post(self) -> None:
        """Do it."""


def test_body_can_be_declared_as_json_and_as_lines() -> None:
    path_item = json.loads(openapi.render([Route("/guid:batch", Batch)], lambda _: True))["paths"]["/guid:batch"]

    assert path_item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Change")
    assert path_item["post"]["requestBody"]["content"]["application/x-ndjson"]["schema"]["type"] == "string"
    assert path_item.keys() == {"post"}


# The schemas agree with the models


def valid(model: type[BaseModel], value: object) -> bool:
    """Whether a value is valid for a model."""
    try:
        model.model_validate(value, context={"guid": EXAMPLE_GUID})
    except ValidationError:
        return False
    return True


BODIES = DOCUMENT["components"]["schemas"]
TIMES = st.integers(-3, 10**13) | st.integers(MAX_TIME - 3, MAX_TIME + 3)
ODD = (
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.sampled_from(["", "+1", "1_0", " 1", "1.0", "٣", "1\n"])
)


@given(st.text(max_size=4) | st.text(alphabet=" \t\n\x1f\x85\xa0\u2003\u3000\ufeffa", max_size=4) | st.integers())
@example("a" * 256)
@example("a" * 257)
def test_schema_of_user_accepts_what_the_model_accepts(user: object) -> None:
    assert accepts(BODIES["Creation"], {"user": user}) == valid(Creation, {"user": user})


@given(TIMES | TIMES.map(str) | TIMES.map("{:020}".format) | ODD)
def test_schema_of_expiry_accepts_what_the_model_accepts(expire: object) -> None:
    if not (isinstance(expire, float) and expire.is_integer()):  # 1.0 and 1 are the same to JSON Schema
        assert accepts(BODIES["Change"], {"expire": expire}) == valid(Change, {"expire": expire})


@given(TIMES | TIMES.map(str) | TIMES.map("{:020}".format) | ODD)
def test_schema_of_ttl_accepts_what_the_model_accepts(ttl: object) -> None:
    if not (isinstance(ttl, float) and ttl.is_integer()):
        assert accepts(BODIES["Change"], {"ttl": ttl}) == valid(Change, {"ttl": ttl})


@pytest.mark.parametrize("name", ["guid", "user", "expire", "metadata", "ttl", "another"])
@pytest.mark.parametrize("model", [Change, Creation, Patch])
def test_schema_of_body_accepts_null_where_the_model_does(model: type[BaseModel], name: str) -> None:
    body = {"user": "Cylance, Inc.", name: None}

    assert accepts(BODIES[model.__name__], body) == valid(model, body) == ((model, name) == (Patch, "metadata"))


POSITIONS = st.builds(
    Position, st.binary(min_size=16, max_size=16).map(bytes.hex), st.none() | st.integers(0, MAX_TIME)
)


def test_schema_of_last_event_id_accepts_an_empty_one() -> None:
    """The service ignores it."""
    parameters = DOCUMENT["paths"]["/events"]["get"]["parameters"]
    schema = next(parameter["schema"] for parameter in parameters if parameter["name"] == "Last-Event-ID")
    cursor = next(parameter["schema"] for parameter in parameters if parameter["name"] == "cursor")

    assert accepts(schema, "")
    for text in (" ", "A", "\n", "Ag"):
        assert not accepts(schema, text), text
    assert schema["pattern"].endswith(cursor["pattern"])


@given(POSITIONS.map(render_cursor) | st.text(max_size=31))
def test_schema_of_cursor_accepts_what_the_model_accepts(cursor: str) -> None:
    schema = ListQuery.model_json_schema()["properties"]["cursor"]

    assert accepts(schema, cursor) == valid(ListQuery, {"cursor": cursor})


@given(POSITIONS)
def test_cursor_is_read_as_rendered(position: Position) -> None:
    assert parse_cursor(render_cursor(position)) == position._replace(guid=position.guid.upper())
