"""The service described in OpenAPI 3.1, made from the route table, what is declared of its methods, and the models.

Nothing is said here of any single path: what is to be told of one stands above its method. To import this takes
longer than all the rest of the service, so it is left until somebody asks for the document.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Literal, NamedTuple

import openapi_pydantic as oas
from openapi_pydantic.util import PydanticSchema, construct_open_api_with_schema_class
from pydantic import BaseModel, create_model

import guidsvc
from guidsvc.api.contract import headers, problems
from guidsvc.api.contract import schemas as answers
from guidsvc.api.contract.headers import Header
from guidsvc.api.contract.operation import OperationSpec, ResponseSpec, operation_of
from guidsvc.api.docs.problem_catalog import EXPLANATIONS, ProblemDoc
from guidsvc.api.routing import Route
from guidsvc.domain.caller import KEY
from guidsvc.errors import Forbidden, RateLimited, Unauthorized, Unavailable
from guidsvc.http.constants import JSON
from guidsvc.http.errors import HeadersTooLarge, MisdirectedRequest

_ABOUT = """A registry of GUIDs that expire.

A path answers a method that it does not serve with 405 and `Allow`, and an unknown one with 501; any other
path is a 404. Every error is a problem (RFC 9457), and its `type` leads to what it means. Every body is JSON, and every
reply has an `X-Request-Id`."""
ANYWHERE = (MisdirectedRequest, HeadersTooLarge, Unavailable, Exception)
"""What can happen to any request."""
GUARDED = (Unauthorized, Forbidden, RateLimited)
"""And to one that takes a key, where access is controlled."""
_KEY = "key"
_BEARER: dict[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, `gs_...`, where access is controlled.",
}
_EVERYWHERE = (
    *headers.always(headers.REQUEST_ID, headers.NOSNIFF, headers.NO_FRAMES),
    headers.CACHE_CONTROL,
    headers.STRICT,
    headers.ALLOW_ORIGIN,
    headers.SERVER_TIMING,
)


def build(routes: Iterable[Route]) -> oas.OpenAPI:
    """Make the document for a route table."""
    document = oas.OpenAPI(
        openapi="3.1.1",
        info=oas.Info(title="guidsvc", version=guidsvc.__version__, description=_ABOUT),
        servers=[oas.Server(url="/")],
        paths={route.path: _path(route) for route in routes},
        components=oas.Components(securitySchemes={_KEY: oas.SecurityScheme(**_BEARER)}),
    )
    return construct_open_api_with_schema_class(document, list(_SHAPES.values()))


def render(routes: Iterable[Route]) -> bytes:
    """Make the document for a route table, as JSON."""
    return build(routes).model_dump_json(by_alias=True, exclude_unset=True).encode()


class Method(NamedTuple):
    """One method of one path, and what is declared of it."""

    name: str
    route: Route
    operation: OperationSpec
    description: str

    @property
    def id(self) -> str:
        """What a generated client calls it; HEAD and OPTIONS, which nobody names, by the noun of what is there."""
        if self.name not in {"HEAD", "OPTIONS"}:
            return self.operation.name
        first = operation_of(getattr(self.route.handler, self.route.handler.methods()[0].lower()))
        return re.sub("^[a-z]+", self.name.lower(), first.name)

    @property
    def problems(self) -> Mapping[int, list[ProblemDoc]]:
        """The problems that it may be answered with, by their status."""
        guarded = GUARDED if self.operation.required_scope else ()
        codes = {problems.kind_of(error).code for error in (*self.operation.problems, *guarded, *ANYWHERE)}
        possible = [explanation for code, explanation in EXPLANATIONS.items() if code in codes]
        possible.sort(key=lambda explanation: explanation.problem.status)
        return {status: list(same) for status, same in groupby(possible, lambda each: each.problem.status)}


def methods_of(route: Route) -> Iterator[Method]:
    """Yield the methods that are served at a path."""
    for name in route.handler.methods():
        method = getattr(route.handler, name.lower())
        yield Method(name, route, operation_of(method), inspect.getdoc(method) or "")


def _path(route: Route) -> oas.PathItem:
    operations: dict[str, Any] = {method.name.lower(): _operation(method) for method in methods_of(route)}
    return oas.PathItem(**operations)


def _operation(method: Method) -> oas.Operation:
    told = method.operation
    replies: Any = {str(answer.status): _answer(method, answer) for answer in told.answers}
    replies |= {str(status): _problem(method, kinds) for status, kinds in method.problems.items()}
    more: dict[str, Any] = {} if told.body is None else {"requestBody": _body(told.body, told)}
    if told.required_scope is not None:
        more["security"] = [{}, {_KEY: []}]
    return oas.Operation(
        tags=[method.route.handler.label],
        operationId=method.id,
        summary=told.summary,
        description=f"{method.description}{_needed(told)}",
        parameters=[*_in_path(method), *_in_query(told.query), *map(_in_header, told.request_headers)],
        responses=replies,
        **more,
    )


def _needed(told: OperationSpec) -> str:
    """Say what an operation takes where access is controlled."""
    if told.required_scope is None:
        return ""
    takes = "a key" if told.required_scope == KEY else f"a key with the scope `{told.required_scope}`"
    return f"\n\nWhere access is controlled it takes {takes}."


# What is sent


def _in_path(method: Method) -> Iterator[oas.Parameter]:
    """Yield what stands in the path. OPTIONS are those of the path, whatever stands there."""
    for name in method.route.parameters:
        schema = method.route.handler.in_path[name]
        limits = {} if method.name != "OPTIONS" else {"pattern", "enum"}
        kept = {key: value for key, value in schema.items() if key not in limits}
        yield _parameter("path", name, kept, required=True, example=schema["examples"][0])


def _in_query(model: type[BaseModel] | None) -> Iterator[oas.Parameter]:
    for name, schema in (model.model_json_schema()["properties"] if model and model.model_fields else {}).items():
        yield _parameter("query", name, schema)


def _in_header(header: Header) -> oas.Parameter:
    return _parameter("header", header.name, header.schema | {"description": header.description})


def _parameter(where: str, name: str, schema: Mapping[str, Any], **more: Any) -> oas.Parameter:
    bare = {key: value for key, value in schema.items() if key not in {"title", "description", "examples"}}
    told = {"in": where, "name": name, "description": schema["description"], "schema": bare}
    return oas.Parameter(**told | more)


def _body(model: type[BaseModel], told: OperationSpec) -> oas.RequestBody:
    content = dict.fromkeys(told.media_types, _content(model)) | _texts(told.other)
    return oas.RequestBody(required=True, content=content)


# What is answered


def _answer(method: Method, answer: ResponseSpec) -> oas.Response:
    content = {} if answer.body is None else {JSON: _content(answer.body)}
    content |= _texts(answer.other)
    more: dict[str, Any] = {"content": content} if content and method.name != "HEAD" else {}
    if answer.leads_to and more:
        more["links"] = {name: _link(name) for name in answer.leads_to}
    return oas.Response(description=answer.description, headers=_headers(*_EVERYWHERE, *answer.headers), **more)


def _link(name: str) -> oas.Link:
    return oas.Link(operationId=name, parameters={"guid": "$response.body#/guid"})


def _problem(method: Method, kinds: list[ProblemDoc]) -> oas.Response:
    shapes = [_schema(_SHAPES[kind.problem.code]) for kind in kinds]
    content = _media(
        schema=shapes[0] if len(shapes) == 1 else {"oneOf": shapes},
        examples={kind.problem.code: {"summary": kind.problem.title, "value": kind.example} for kind in kinds},
    )
    more: dict[str, Any] = {} if method.name == "HEAD" else {"content": {problems.CONTENT_TYPE: content}}
    description = " ".join(f"`{kind.problem.code}`: {kind.when}" for kind in kinds)
    return oas.Response(description=description, headers=_headers(*_EVERYWHERE, *_brought(method, kinds)), **more)


def _brought(method: Method, kinds: list[ProblemDoc]) -> Iterator[Header]:
    """Yield the headers that problems of these kinds bring."""
    for name in {name for kind in kinds for name in problems.headers_of(kind.error)}:
        yield headers.ACCEPT_PATCH if name == "Accept" and method.name == "PATCH" else headers.OF_PROBLEMS[name]


def _headers(*told: Header) -> dict[str, oas.Header | oas.Reference]:
    return {header.name: _header(header) for header in told}


def _header(header: Header) -> oas.Header:
    told: dict[str, Any] = {"description": header.description, "schema": header.schema, "example": header.example}
    return oas.Header(**told | ({"required": True} if header.required else {}))


def _content(model: type[BaseModel]) -> oas.MediaType:
    extra: Any = model.model_config.get("json_schema_extra") or {}
    return _media(schema=_schema(model), **({"example": extra["examples"][0]} if "examples" in extra else {}))


def _texts(told: Mapping[str, str]) -> dict[str, oas.MediaType]:
    """Describe what is not JSON, by its media type."""
    return {media: _media(schema={"type": "string", "description": what}) for media, what in told.items()}


def _media(**told: Any) -> oas.MediaType:
    return oas.MediaType(**told)


def _schema(model: type[BaseModel]) -> Any:
    return PydanticSchema(schema_class=model)  # type: ignore[call-arg]  # its aliases confuse mypy


def _shape(explanation: ProblemDoc) -> type[BaseModel]:
    """Make the model of a problem of this kind."""
    code, status, title = explanation.problem
    name = "".join(word.title() for word in code.split("-")) + "Problem"
    shape = answers.PROBLEMS.get(code, answers.Problem)
    fixed: Any = {"type": f"/problems/{code}", "title": title, "status": status, "code": code}
    members: Any = {member: (Literal[value], ...) for member, value in fixed.items()}
    return create_model(name, __base__=shape, __doc__=explanation.when, **members)


_SHAPES = {code: _shape(explanation) for code, explanation in EXPLANATIONS.items()}
