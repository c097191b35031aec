"""The declaration of an operation, made by the decorator of a handler method. `/openapi.json` is generated from it.

This module serves no request and does not know OpenAPI.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from guidsvc.api.contract.headers import CLIENT_REQUEST_ID, Header
from guidsvc.domain.caller import Needs
from guidsvc.http.constants import JSON

_Method = TypeVar("_Method", bound=Callable[..., Any])


class ResponseSpec(NamedTuple):
    """A response that is not a problem."""

    status: int
    description: str
    body: type[BaseModel] | None = None
    """The schema of the JSON body."""
    other: Mapping[str, str] = {}
    """Other media types of the body, each with a description of the text."""
    headers: tuple[Header, ...] = ()
    leads_to: tuple[str, ...] = ()
    """OpenAPI links: names of operations on the GUID in the body."""
    component: str = ""
    """The name under which the document describes it once, if several operations have it."""


@dataclass(frozen=True)
class OperationSpec:
    """The parameters and responses of a handler method. The docstring of the method describes what it does."""

    name: str
    """The operation id, from which generated clients take their method names: a verb in lower case, and a noun."""
    summary: str
    responses: tuple[ResponseSpec, ...]
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    body: type[BaseModel] | None = None
    """The schema of the JSON body of a request."""
    media_types: tuple[str, ...] = (JSON,)
    """The media types of the JSON body."""
    other: Mapping[str, str] = field(default_factory=dict)
    """Other media types of the body, each with a description of the text."""
    problems: tuple[type[Exception], ...] = ()
    """Errors specific to the operation. `Unavailable` and internal errors can happen in every operation."""
    required_scope: Needs | None = None
    """The requirement of access control: a scope, or any valid key; None if the operation is public."""

    @property
    def request_headers(self) -> tuple[Header, ...]:
        """The request headers of the operation."""
        return (*self.headers, CLIENT_REQUEST_ID)


def operation(name: str, summary: str, *responses: ResponseSpec, **fields: Any) -> Callable[[_Method], _Method]:
    """Declare the decorated method as an operation; `fields` are further fields of its `OperationSpec`."""
    spec = OperationSpec(name, summary, responses, **fields)

    def declare(method: _Method) -> _Method:
        vars(method)["operation"] = spec
        return method

    return declare


def needs_of(method: Callable[..., Any]) -> Needs | None:
    """Return the requirement of access control for a method; None if it is public, or not an operation."""
    spec: OperationSpec | None = getattr(method, "operation", None)
    return None if spec is None else spec.required_scope


def is_operation(method: Callable[..., Any]) -> bool:
    """Whether a method is declared as an operation. Those that only reject requests are not."""
    return hasattr(method, "operation")


def operation_of(method: Callable[..., Any]) -> OperationSpec:
    """Return the declaration of a method; AttributeError if it has none."""
    spec: OperationSpec = method.operation  # type: ignore[attr-defined]  # set by the decorator `operation`
    return spec
