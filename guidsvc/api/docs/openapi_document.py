"""The OpenAPI 3.1 document, generated from the route table, the declarations of operations, and the models.

Texts about a single operation are in its declaration and its docstring, not here. Common parts of operations are in the
components. HEAD and OPTIONS are served but omitted, because they follow from the other methods of a path.
Importing this module takes longer than the rest of the service, so it is imported with the first request for the
document.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import openapi_pydantic as oas
from openapi_pydantic.util import construct_open_api_with_schema_class
from pydantic import BaseModel

import guidsvc
from guidsvc.api.contract import problems
from guidsvc.api.contract.operation import OperationSpec, ResponseSpec, operation_of
from guidsvc.api.docs import openapi_components as components
from guidsvc.api.docs.openapi_components import SharedComponents
from guidsvc.api.docs.problem_catalog import EXPLANATIONS, ProblemDoc
from guidsvc.api.routing import Route
from guidsvc.domain.caller import KEY
from guidsvc.errors import Forbidden, RateLimited, Unauthorized, Unavailable
from guidsvc.http.constants import JSON
from guidsvc.http.errors import HeadersTooLarge, MisdirectedRequest, TooEarly

_ABOUT = """A registry of GUIDs that expire.

Every body is JSON unless stated otherwise, and every response has an `X-Request-Id`. Every error is a problem
(RFC 9457); its `type` is the path, or with `--public-url` the URL, of a page that explains it. A method that a path
does not support returns 405 with `Allow`, an unknown method 501, and an unknown path 404. Over TLS, every response has
`Strict-Transport-Security`, and with `--server-timing` it has `Server-Timing`, its duration in milliseconds.

Every path also supports OPTIONS, which returns 204 with `Allow`. Every path that supports GET also supports HEAD, which
returns the same response without the body."""
UNDOCUMENTED = frozenset({"HEAD", "OPTIONS"})
"""Methods that are served but not in the document: they would more than double the clients that are generated."""
ANYWHERE = (MisdirectedRequest, HeadersTooLarge, Unavailable, Exception)
"""Errors that any request may return."""
OF_CHANGES = (TooEarly,)
"""Errors that any request may return whose method is not GET."""
GUARDED = (Unauthorized, Forbidden, RateLimited)
"""Errors of operations that require a key, with access control."""
_SAME_IN_ALL_PROBLEMS = {"detail", "request_id"}
"""Members that the schema `AnyProblem` describes for all problems."""
IsPublic = Callable[[str], bool]
"""Returns whether every operation at a path is public, whatever scope it declares."""


def render(routes: Iterable[Route], is_public: IsPublic) -> bytes:
    """Render the document of a route table as JSON."""
    return build(routes, is_public).model_dump_json(by_alias=True, exclude_unset=True).encode()


def build(routes: Iterable[Route], is_public: IsPublic) -> oas.OpenAPI:
    """Build the document of a route table."""
    describer = _OperationDescriber(is_public)
    paths = {route.path: describer.path_item(route) for route in routes}
    _share_parameters(paths.values(), describer.shared)
    document = oas.OpenAPI(
        openapi="3.1.1",
        info=oas.Info(title="guidsvc", version=guidsvc.__version__, description=_ABOUT),
        servers=[oas.Server(url="/")],
        paths=paths,
        components=describer.shared.build(has_keys=describer.has_keys),
    )
    return _shortened(construct_open_api_with_schema_class(document, list(components.SHAPES.values())))


def _share_parameters(items: Collection[oas.PathItem], shared: SharedComponents) -> None:
    """Describe each parameter that several operations have once, and let them refer to it."""
    operations: list[Any] = [getattr(item, name) for item in items for name in item.model_fields_set]
    counts = Counter(_content_of(each) for operation in operations for each in operation.parameters)
    for operation in operations:
        operation.parameters = [
            shared.parameter(each) if counts[_content_of(each)] > 1 and isinstance(each, oas.Parameter) else each
            for each in operation.parameters
        ]


def _content_of(parameter: BaseModel) -> str:
    return parameter.model_dump_json(by_alias=True, exclude_unset=True)


def _shortened(document: oas.OpenAPI) -> oas.OpenAPI:
    """Remove the titles of members, which only repeat their names, and descriptions that all problems would repeat."""
    schemas: Any = document.components and document.components.schemas
    problem_names = {shape.__name__ for shape in components.SHAPES.values()}
    for name, schema in schemas.items():
        for member_name, member in (schema.properties or {}).items():
            member.model_fields_set.discard("title")
            if name in problem_names and member_name in _SAME_IN_ALL_PROBLEMS:
                member.model_fields_set.discard("description")
    return document


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
        anywhere = ANYWHERE if self.name == "GET" else (*ANYWHERE, *OF_CHANGES)
        codes = {problems.kind_of(error).code for error in (*self.operation.problems, *access_problems, *anywhere)}
        possible = [explanation for code, explanation in EXPLANATIONS.items() if code in codes]
        possible.sort(key=lambda explanation: explanation.problem.status)
        return {status: list(group) for status, group in groupby(possible, lambda each: each.problem.status)}


def methods_of(route: Route) -> Iterator[Method]:
    """Yield the methods that a path supports."""
    for name in route.handler.methods():
        method = getattr(route.handler, name.lower())
        yield Method(name, route, operation_of(method), inspect.getdoc(method) or "")


class _OperationDescriber:
    """Describes operations, and collects their common components."""

    def __init__(self, is_public: IsPublic) -> None:
        self._is_public = is_public
        self.shared = SharedComponents()
        self.has_keys = False  # whether some operation requires a key

    def path_item(self, route: Route) -> oas.PathItem:
        """Describe the operations of a path."""
        documented = (method for method in methods_of(route) if method.name not in UNDOCUMENTED)
        operations: dict[str, Any] = {method.name.lower(): self._operation(method) for method in documented}
        return oas.PathItem(**operations)

    def _operation(self, method: Method) -> oas.Operation:
        spec = method.operation
        responses: Any = {str(response.status): self._response(response) for response in spec.responses}
        responses |= {str(status): self.shared.problem(method.name, kinds) for status, kinds in method.problems.items()}
        optional: dict[str, Any] = {} if spec.body is None else {"requestBody": _body(spec.body, spec)}
        in_headers = map(self.shared.request_header, spec.request_headers)
        return oas.Operation(
            tags=[method.route.handler.label],
            operationId=method.id,
            summary=spec.summary,
            description=f"{method.description}{_scope_sentence(spec)}",
            parameters=[*_in_path(method), *_in_query(spec.query), *in_headers],
            responses=responses,
            **optional | self._security(method),
        )

    def _security(self, method: Method) -> dict[str, Any]:
        """Return the member `security` of an operation that requires a key, else nothing."""
        if method.operation.required_scope is None or self._is_public(method.route.path):
            return {}
        self.has_keys = True
        return {"security": [{components.KEY: []}]}

    def _response(self, response: ResponseSpec) -> oas.Response | oas.Reference:
        if response.component:
            return self.shared.response(response.component, self._described(response))
        return self._described(response)

    def _described(self, response: ResponseSpec) -> oas.Response:
        content = {} if response.body is None else {JSON: components.json_content(response.body)}
        content |= components.text_content(response.other)
        optional: dict[str, Any] = {"content": content} if content else {}
        if response.leads_to:
            optional["links"] = {name: _link(name) for name in response.leads_to}
        headers = self.shared.headers(*response.headers)
        return oas.Response(description=response.description, headers=headers, **optional)


def _scope_sentence(spec: OperationSpec) -> str:
    """Return the sentence about the scope that the operation requires."""
    if spec.required_scope is None:
        return ""
    key = "a key" if spec.required_scope == KEY else f"a key with the scope `{spec.required_scope}`"
    return f"\n\nWith access control, this requires {key}."


def _in_path(method: Method) -> Iterator[oas.Parameter]:
    """Yield the path parameters."""
    for name in method.route.parameters:
        schema = method.route.handler.in_path[name]
        yield components.parameter("path", name, schema, required=True, example=schema["examples"][0])


def _in_query(model: type[BaseModel] | None) -> Iterator[oas.Parameter]:
    for name, schema in (model.model_json_schema()["properties"] if model and model.model_fields else {}).items():
        yield components.parameter("query", name, schema)


def _body(model: type[BaseModel], spec: OperationSpec) -> oas.RequestBody:
    content = dict.fromkeys(spec.media_types, components.json_content(model))
    content |= components.text_content(spec.other, format="binary")  # so that generated clients can stream it
    return oas.RequestBody(required=True, content=content)


def _link(name: str) -> oas.Link:
    return oas.Link(operationId=name, parameters={"guid": "$response.body#/guid"})
