"""The shared components of the OpenAPI document: request and response headers, and problem responses.

Each is described once, and operations refer to it. Without that, the document would be five times as large.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import openapi_pydantic as oas
from openapi_pydantic.util import PydanticSchema
from pydantic import BaseModel, Field, create_model

from guidsvc.api.contract import headers, problems, schemas
from guidsvc.api.contract.headers import Header
from guidsvc.api.docs.problem_catalog import EXPLANATIONS, ProblemDoc
from guidsvc.api.html.page import HTML

KEY = "key"
_BEARER: dict[str, Any] = {"type": "http", "scheme": "bearer", "description": "An API key (`gs_...`) or a JWT."}
_EVERYWHERE = (
    *headers.always(headers.REQUEST_ID, headers.NOSNIFF, headers.NO_FRAMES, headers.ONE_ORIGIN),
    headers.CACHE_CONTROL,
    headers.ALLOW_ORIGIN,
)

_SHORT_NAMES = {
    headers.REQUEST_ID.name: "Id",
    headers.NOSNIFF.name: "NoSniff",
    headers.NO_FRAMES.name: "NoFrames",
    headers.ONE_ORIGIN.name: "OneOrigin",
    headers.CACHE_CONTROL.name: "Cache",
    headers.ALLOW_ORIGIN.name: "CORS",
}
"""The components of the headers that every response refers to: long names would take a tenth of the document."""


class SharedComponents:
    """The components that the operations refer to, collected while the operations are described."""

    def __init__(self) -> None:
        self._headers: dict[str, Any] = {}
        self._request_headers: dict[str, Header] = {}
        self._parameters: dict[str, oas.Parameter] = {}
        self._responses: dict[str, Any] = {}

    def build(self, *, has_keys: bool) -> oas.Components:
        """Return the components; `has_keys` adds the security scheme of keys."""
        optional: dict[str, Any] = {"securitySchemes": {KEY: oas.SecurityScheme(**_BEARER)}} if has_keys else {}
        in_headers = {name: header_parameter(header) for name, header in self._request_headers.items()}
        return oas.Components(
            headers=self._headers,
            parameters={**in_headers, **self._parameters},
            responses=self._responses,
            **optional,
        )

    def headers(self, *specs: Header) -> dict[str, oas.Header | oas.Reference]:
        """Return references to the headers of a response, and to those of every response."""
        return {header.name: self._header(header) for header in (*_EVERYWHERE, *specs)}

    def request_header(self, header: Header) -> oas.Reference:
        """Return a reference to the parameter of a request header. Several headers may have one name."""
        name = header.name
        while self._request_headers.setdefault(name, header) is not header:
            name += "-Here"
        return _reference("parameters", name)

    def parameter(self, parameter: oas.Parameter) -> oas.Reference:
        """Return a reference to a parameter of the path or the query. No two that differ may have the same name."""
        known = self._parameters.setdefault(parameter.name, parameter)
        if known != parameter:
            raise ValueError(f"several operations have the parameter {parameter.name}, in two forms")
        return _reference("parameters", parameter.name)

    def response(self, name: str, response: oas.Response) -> oas.Reference:
        """Return a reference to a response that several operations have."""
        self._responses[name] = response
        return _reference("responses", name)

    def problem(self, method: str, kinds: list[ProblemDoc]) -> oas.Reference:
        """Return a reference to the response to a method with one of these problems, which have the same status."""
        specs = tuple(_problem_headers(method, kinds))
        name = "Or".join(_words(kind.problem.code) for kind in kinds)
        name += "ToPatch" if headers.ACCEPT_PATCH in specs else ""
        if name not in self._responses:
            self._responses[name] = self._problem_response(kinds, specs)
        return _reference("responses", name)

    def _header(self, header: Header) -> oas.Reference:
        name = header.name if header.required else f"Optional-{header.name}"
        if header in _EVERYWHERE:
            name = _SHORT_NAMES[header.name]
        members: dict[str, Any] = {"description": header.description, "schema": header.schema}
        members |= {"example": header.example, **({"required": True} if header.required else {})}
        self._headers[name] = oas.Header(**members)
        return _reference("headers", name)

    def _problem_response(self, kinds: list[ProblemDoc], specs: tuple[Header, ...]) -> oas.Response:
        shapes = [schema_of(SHAPES[kind.problem.code]) for kind in kinds]
        content = media_type(
            schema=shapes[0] if len(shapes) == 1 else {"oneOf": shapes},
            examples={kind.problem.code: {"value": kind.example} for kind in kinds},  # with the title in it
        )
        description = " ".join(f"`{kind.problem.code}`: {kind.when}" for kind in kinds)
        page = text_content({HTML: "As a page."})
        return oas.Response(
            description=description, headers=self.headers(*specs), content={problems.CONTENT_TYPE: content} | page
        )


def _problem_headers(method: str, kinds: list[ProblemDoc]) -> Iterator[Header]:
    """Yield the headers that responses with these problems have."""
    for name in sorted({name for kind in kinds for name in problems.headers_of(kind.error)}):
        yield headers.ACCEPT_PATCH if name == "Accept" and method == "PATCH" else headers.OF_PROBLEMS[name]


def _reference(kind: str, name: str) -> oas.Reference:
    return oas.Reference(**{"$ref": f"#/components/{kind}/{name}"})


# Descriptions of parts


def header_parameter(header: Header) -> oas.Parameter:
    """Describe a request header."""
    return parameter("header", header.name, header.schema | {"description": header.description})


def parameter(location: str, name: str, schema: Mapping[str, Any], **optional: Any) -> oas.Parameter:
    """Describe a parameter by a JSON Schema that contains its description."""
    bare = {key: value for key, value in schema.items() if key not in {"title", "description", "examples"}}
    members = {"in": location, "name": name, "description": schema["description"], "schema": bare}
    return oas.Parameter(**members | optional)


def json_content(model: type[BaseModel]) -> oas.MediaType:
    """Describe a JSON body, with the first example of its schema."""
    extra: Any = model.model_config.get("json_schema_extra") or {}
    return media_type(schema=schema_of(model), **({"example": extra["examples"][0]} if "examples" in extra else {}))


def text_content(texts: Mapping[str, str], **members: Any) -> dict[str, oas.MediaType]:
    """Describe the media types that are not JSON as text, with these further members of their schemas."""
    return {
        media: media_type(schema={"type": "string", "description": description} | members)
        for media, description in texts.items()
    }


def media_type(**members: Any) -> oas.MediaType:
    """Return a media type object; mypy does not see the aliases of its members."""
    return oas.MediaType(**members)


def schema_of(model: type[BaseModel]) -> Any:
    """Return a reference to the schema of a model."""
    return PydanticSchema(schema_class=model)  # type: ignore[call-arg]  # its aliases confuse mypy


def _words(code: str) -> str:
    """Return a problem code in camel case, such as `NotFound`."""
    return "".join(word.title() for word in code.split("-"))


def _shape(explanation: ProblemDoc) -> type[BaseModel]:
    """Create the model of a problem type."""
    code, status, title = explanation.problem
    shape = schemas.PROBLEMS.get(code, schemas.Problem)
    fixed: Any = {"title": title, "status": status, "code": code}
    members: Any = {"type": (Annotated[str, Field(pattern=f"^(https?://[^?#]+)?/problems/{code}$")], ...)}
    members |= {member: (Literal[value], ...) for member, value in fixed.items()}
    # Without a description, because that of the response says when the problem occurs.
    return create_model(f"{_words(code)}Problem", __base__=shape, __doc__="", **members)


SHAPES = {code: _shape(explanation) for code, explanation in EXPLANATIONS.items()}
"""The models of all problems, by code."""
