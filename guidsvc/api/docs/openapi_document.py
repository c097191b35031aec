"""The OpenAPI 3.1 document, generated from the route table, the declarations of operations, and the models.

Texts about a single operation are in its declaration and its docstring, not here. Importing this module takes longer
than the rest of the service, so it is imported with the first request for the document.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

import openapi_pydantic as oas
from openapi_pydantic.util import PydanticSchema, construct_open_api_with_schema_class
from pydantic import BaseModel, Field, create_model

import guidsvc
from guidsvc.api.contract import headers, problems, schemas
from guidsvc.api.contract.headers import Header
from guidsvc.api.contract.operation import OperationSpec, ResponseSpec, operation_of
from guidsvc.api.docs.problem_catalog import EXPLANATIONS, ProblemDoc
from guidsvc.api.routing import Route
from guidsvc.domain.caller import KEY
from guidsvc.errors import Forbidden, RateLimited, Unauthorized, Unavailable
from guidsvc.http.constants import JSON
from guidsvc.http.errors import HeadersTooLarge, MisdirectedRequest

_ABOUT = """A registry of GUIDs that expire.

Every body is JSON unless stated otherwise, and every response has an `X-Request-Id`. Every error is a problem
(RFC 9457); its `type` is the path, or with `--public-url` the URL, of a page that explains it. A method that a path
does not support returns 405 with `Allow`, an unknown method 501, and an unknown path 404."""
ANYWHERE = (MisdirectedRequest, HeadersTooLarge, Unavailable, Exception)
"""Errors that any request may return."""
GUARDED = (Unauthorized, Forbidden, RateLimited)
"""Errors of operations that require a key, with access control."""
_KEY = "key"
_BEARER: dict[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "description": "With access control: an API key (`gs_...`) or a JWT.",
}
_EVERYWHERE = (
    *headers.always(headers.REQUEST_ID, headers.NOSNIFF, headers.NO_FRAMES),
    headers.CACHE_CONTROL,
    headers.STRICT,
    headers.ALLOW_ORIGIN,
    headers.SERVER_TIMING,
)


def build(routes: Iterable[Route]) -> oas.OpenAPI:
    """Build the document of a route table."""
    document = oas.OpenAPI(
        openapi="3.1.1",
        info=oas.Info(title="guidsvc", version=guidsvc.__version__, description=_ABOUT),
        servers=[oas.Server(url="/")],
        paths={route.path: _path(route) for route in routes},
        components=oas.Components(securitySchemes={_KEY: oas.SecurityScheme(**_BEARER)}),
    )
    return construct_open_api_with_schema_class(document, list(_SHAPES.values()))


def render(routes: Iterable[Route]) -> bytes:
    """Render the document of a route table as JSON."""
    return build(routes).model_dump_json(by_alias=True, exclude_unset=True).encode()


class Method(NamedTuple):
    """A method of a path, and its declaration."""

    name: str
    route: Route
    operation: OperationSpec
    description: str

    @property
    def id(self) -> str:
        """The operation id. For HEAD and OPTIONS, which have no declaration: the method and the noun of the path."""
        if self.name not in {"HEAD", "OPTIONS"}:
            return self.operation.name
        first = operation_of(getattr(self.route.handler, self.route.handler.methods()[0].lower()))
        return re.sub("^[a-z]+", self.name.lower(), first.name)

    @property
    def problems(self) -> Mapping[int, list[ProblemDoc]]:
        """The problems that the operation may return, by status."""
        access_problems = GUARDED if self.operation.required_scope else ()
        codes = {problems.kind_of(error).code for error in (*self.operation.problems, *access_problems, *ANYWHERE)}
        possible = [explanation for code, explanation in EXPLANATIONS.items() if code in codes]
        possible.sort(key=lambda explanation: explanation.problem.status)
        return {status: list(group) for status, group in groupby(possible, lambda each: each.problem.status)}


def methods_of(route: Route) -> Iterator[Method]:
    """Yield the methods that a path supports."""
    for name in route.handler.methods():
        method = getattr(route.handler, name.lower())
        yield Method(name, route, operation_of(method), inspect.getdoc(method) or "")


def _path(route: Route) -> oas.PathItem:
    operations: dict[str, Any] = {method.name.lower(): _operation(method) for method in methods_of(route)}
    return oas.PathItem(**operations)


def _operation(method: Method) -> oas.Operation:
    spec = method.operation
    responses: Any = {str(response.status): _response(method, response) for response in spec.responses}
    responses |= {str(status): _problem(method, kinds) for status, kinds in method.problems.items()}
    optional: dict[str, Any] = {} if spec.body is None else {"requestBody": _body(spec.body, spec)}
    if spec.required_scope is not None:
        optional["security"] = [{}, {_KEY: []}]
    return oas.Operation(
        tags=[method.route.handler.label],
        operationId=method.id,
        summary=spec.summary,
        description=f"{method.description}{_scope_sentence(spec)}",
        parameters=[*_in_path(method), *_in_query(spec.query), *map(_in_header, spec.request_headers)],
        responses=responses,
        **optional,
    )


def _scope_sentence(spec: OperationSpec) -> str:
    """Return the sentence about the scope that the operation requires."""
    if spec.required_scope is None:
        return ""
    key = "a key" if spec.required_scope == KEY else f"a key with the scope `{spec.required_scope}`"
    return f"\n\nWith access control, this requires {key}."


# Requests


def _in_path(method: Method) -> Iterator[oas.Parameter]:
    """Yield the path parameters. For OPTIONS they are unrestricted: the response depends on the path alone."""
    for name in method.route.parameters:
        schema = method.route.handler.in_path[name]
        limits = {} if method.name != "OPTIONS" else {"pattern", "enum"}
        remaining = {key: value for key, value in schema.items() if key not in limits}
        yield _parameter("path", name, remaining, required=True, example=schema["examples"][0])


def _in_query(model: type[BaseModel] | None) -> Iterator[oas.Parameter]:
    for name, schema in (model.model_json_schema()["properties"] if model and model.model_fields else {}).items():
        yield _parameter("query", name, schema)


def _in_header(header: Header) -> oas.Parameter:
    return _parameter("header", header.name, header.schema | {"description": header.description})


def _parameter(location: str, name: str, schema: Mapping[str, Any], **optional: Any) -> oas.Parameter:
    bare = {key: value for key, value in schema.items() if key not in {"title", "description", "examples"}}
    members = {"in": location, "name": name, "description": schema["description"], "schema": bare}
    return oas.Parameter(**members | optional)


def _body(model: type[BaseModel], spec: OperationSpec) -> oas.RequestBody:
    content = dict.fromkeys(spec.media_types, _content(model)) | _text_types(spec.other)
    return oas.RequestBody(required=True, content=content)


# Responses


def _response(method: Method, response: ResponseSpec) -> oas.Response:
    content = {} if response.body is None else {JSON: _content(response.body)}
    content |= _text_types(response.other)
    optional: dict[str, Any] = {"content": content} if content and method.name != "HEAD" else {}
    if response.leads_to and optional:
        optional["links"] = {name: _link(name) for name in response.leads_to}
    return oas.Response(description=response.description, headers=_headers(*_EVERYWHERE, *response.headers), **optional)


def _link(name: str) -> oas.Link:
    return oas.Link(operationId=name, parameters={"guid": "$response.body#/guid"})


def _problem(method: Method, kinds: list[ProblemDoc]) -> oas.Response:
    shapes = [_schema(_SHAPES[kind.problem.code]) for kind in kinds]
    content = _media(
        schema=shapes[0] if len(shapes) == 1 else {"oneOf": shapes},
        examples={kind.problem.code: {"summary": kind.problem.title, "value": kind.example} for kind in kinds},
    )
    optional: dict[str, Any] = {} if method.name == "HEAD" else {"content": {problems.CONTENT_TYPE: content}}
    description = " ".join(f"`{kind.problem.code}`: {kind.when}" for kind in kinds)
    return oas.Response(
        description=description, headers=_headers(*_EVERYWHERE, *_problem_headers(method, kinds)), **optional
    )


def _problem_headers(method: Method, kinds: list[ProblemDoc]) -> Iterator[Header]:
    """Yield the headers that responses with these problems have."""
    for name in {name for kind in kinds for name in problems.headers_of(kind.error)}:
        yield headers.ACCEPT_PATCH if name == "Accept" and method.name == "PATCH" else headers.OF_PROBLEMS[name]


def _headers(*specs: Header) -> dict[str, oas.Header | oas.Reference]:
    return {header.name: _header(header) for header in specs}


def _header(header: Header) -> oas.Header:
    members: dict[str, Any] = {"description": header.description, "schema": header.schema, "example": header.example}
    return oas.Header(**members | ({"required": True} if header.required else {}))


def _content(model: type[BaseModel]) -> oas.MediaType:
    extra: Any = model.model_config.get("json_schema_extra") or {}
    return _media(schema=_schema(model), **({"example": extra["examples"][0]} if "examples" in extra else {}))


def _text_types(texts: Mapping[str, str]) -> dict[str, oas.MediaType]:
    """Return the media types that are not JSON, described as text."""
    return {
        media: _media(schema={"type": "string", "description": description}) for media, description in texts.items()
    }


def _media(**members: Any) -> oas.MediaType:
    return oas.MediaType(**members)


def _schema(model: type[BaseModel]) -> Any:
    return PydanticSchema(schema_class=model)  # type: ignore[call-arg]  # its aliases confuse mypy


def _shape(explanation: ProblemDoc) -> type[BaseModel]:
    """Create the model of a problem type."""
    code, status, title = explanation.problem
    name = "".join(word.title() for word in code.split("-")) + "Problem"
    shape = schemas.PROBLEMS.get(code, schemas.Problem)
    fixed: Any = {"title": title, "status": status, "code": code}
    members: Any = {"type": (Annotated[str, Field(pattern=f"^(https?://[^?#]+)?/problems/{code}$")], ...)}
    members |= {member: (Literal[value], ...) for member, value in fixed.items()}
    return create_model(name, __base__=shape, __doc__=explanation.when, **members)


_SHAPES = {code: _shape(explanation) for code, explanation in EXPLANATIONS.items()}
