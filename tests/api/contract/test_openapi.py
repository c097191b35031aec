"""The OpenAPI document: valid, and neither more nor less than what is served."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import openapi_spec_validator
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
from guidsvc.domain.list_parameters import Position, parse_cursor, render_cursor
from guidsvc.domain.record import EXAMPLE_GUID, MAX_TIME
from guidsvc.http.constants import NDJSON
from tests.conftest import Serving
from tests.support.api_context import request_pipeline
from tests.support.api_document import DOCUMENT, ROUTES, check
from tests.support.backing_servers import ROOT

pytestmark = pytest.mark.both_servers


def accepts(schema: dict[str, Any], value: object) -> bool:
    """Whether a value is as a schema of the document demands."""
    return jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).is_valid(value)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of the document."""
    for path, item in DOCUMENT["paths"].items():
        for method, described in item.items():
            yield path, method.upper(), described


def examples(node: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each example in a part of the document, with its schema."""
    if isinstance(node, list):
        for each in node:
            yield from examples(each)
    elif isinstance(node, dict):
        if "schema" in node:
            yield from ((each["value"], node["schema"]) for each in node.get("examples", {}).values())
            yield from ((node[name], node["schema"]) for name in ("example",) if name in node)
        elif "properties" in node:
            yield from ((each, node) for each in node.get("examples", []))
        for each in node.values():
            yield from examples(each)


async def test_document_is_served_as_rendered_once(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.get("/openapi.json")
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.json == DOCUMENT
        known = {"If-None-Match": reply.headers["ETag"]}
        again = await client.get("/openapi.json", headers=known)
        assert (again.status, again.headers["ETag"]) == (304, reply.headers["ETag"])
        head = await client.ask("HEAD", "/openapi.json")
        assert (head.status, head.headers["ETag"]) == (200, reply.headers["ETag"])


def test_document_is_valid_openapi() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(DOCUMENT)


def test_service_starts_without_the_openapi_library() -> None:
    code = "import guidsvc.bootstrap.app, sys; sys.exit('openapi_pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_document_describes_exactly_the_served_operations() -> None:
    served = {(route.path, method) for route in ROUTES for method in route.handler.methods()}

    assert {(path, method) for path, method, _ in operations()} == served


def test_application_routes_match_described_paths() -> None:
    app = make_app(request_pipeline())  # nothing is asked of it
    matched = {rule.matcher.regex.pattern for rule in app.wildcard_router.rules}  # type: ignore[attr-defined]

    assert matched == {re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(path)) + "$" for path in DOCUMENT["paths"]}


def test_operation_has_unique_name_summary_and_description() -> None:
    names = [described["operationId"] for _, _, described in operations()]

    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z]+[A-Z][A-Za-z]+", name) for name in names)
    assert all(described["summary"] and described["description"] for _, _, described in operations())


def test_every_problem_is_described() -> None:
    told = {
        schema["properties"]["code"].get("const")
        for schema in DOCUMENT["components"]["schemas"].values()
        if "code" in schema["properties"]
    }
    kinds = {*problems.TABLE.values(), problems.INTERNAL}

    assert {kind.code for kind in kinds} <= told


def test_every_problem_is_a_response_of_some_operation() -> None:
    answers = [answer for _, _, described in operations() for answer in described["responses"].values()]
    told = {
        code for answer in answers for media in answer.get("content", {}).values() for code in media.get("examples", {})
    }

    assert told == EXPLANATIONS.keys() - {"method-not-allowed", "not-implemented", "http-version-not-supported"}


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Content-Type-Options"])
def test_every_response_declares_the_common_headers(name: str) -> None:
    for _, _, described in operations():
        assert all(answer["headers"][name]["required"] for answer in described["responses"].values())


def test_every_example_matches_its_schema() -> None:
    found = list(examples(DOCUMENT))

    assert len(found) > 100
    for value, schema in found:
        check(value, schema)


@pytest.mark.parametrize("model", [Change, Creation, Operation, Patch])
def test_body_examples_are_valid_for_their_models(model: type[BaseModel]) -> None:
    for body in DOCUMENT["components"]["schemas"][model.__name__]["examples"]:
        model.model_validate(body, context={"guid": EXAMPLE_GUID})


def test_head_is_described_like_get_without_a_body() -> None:
    for item in DOCUMENT["paths"].values():
        if "head" in item:
            assert item["head"]["parameters"] == item["get"]["parameters"]
            assert item["head"]["responses"].keys() == item["get"]["responses"].keys()
            assert not any("content" in answer for answer in item["head"]["responses"].values())


class Batch(Handler):
    """A handler that is served nowhere."""

    label = "guids"

    @operation("runBatch", "Do much", ResponseSpec(200, "Done."), body=Change, other={NDJSON: "A change a line."})
    async def post(self) -> None:
        """Do it."""


def test_body_can_be_declared_as_json_and_as_lines() -> None:
    made = json.loads(openapi.render([Route("/guid:batch", Batch)]))["paths"]["/guid:batch"]

    assert made["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Change")
    assert made["post"]["requestBody"]["content"]["application/x-ndjson"]["schema"]["type"] == "string"
    assert made["options"]["operationId"] == "optionsBatch"


# The schemas say the same as the models


def valid(model: type[BaseModel], value: object) -> bool:
    """Whether a model takes this."""
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


@pytest.mark.parametrize("name", ["guid", "user", "expire", "metadata", "another"])
@pytest.mark.parametrize("model", [Change, Creation, Patch])
def test_schema_of_body_accepts_null_where_the_model_does(model: type[BaseModel], name: str) -> None:
    body = {"user": "Cylance, Inc.", name: None}

    assert accepts(BODIES[model.__name__], body) == valid(model, body) == ((model, name) == (Patch, "metadata"))


POSITIONS = st.builds(
    Position, st.binary(min_size=16, max_size=16).map(bytes.hex), st.none() | st.integers(0, MAX_TIME)
)


@given(POSITIONS.map(render_cursor) | st.text(max_size=31))
def test_schema_of_cursor_accepts_what_the_model_accepts(cursor: str) -> None:
    schema = ListQuery.model_json_schema()["properties"]["cursor"]

    assert accepts(schema, cursor) == valid(ListQuery, {"cursor": cursor})


@given(POSITIONS)
def test_cursor_is_read_as_rendered(position: Position) -> None:
    assert parse_cursor(render_cursor(position)) == position._replace(guid=position.guid.upper())
