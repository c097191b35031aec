"""What is told of a method of a handler: the declaration that stands above it, and from which `/openapi.json` is made.

Nothing here serves a request, and nothing here knows OpenAPI.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from guidsvc.api.contract.headers import GIVEN_ID, Header
from guidsvc.domain.caller import Needs
from guidsvc.http.constants import JSON

_Method = TypeVar("_Method", bound=Callable[..., Any])


class ResponseSpec(NamedTuple):
    """A reply that is no problem."""

    status: int
    description: str
    body: type[BaseModel] | None = None
    """What it holds, as JSON."""
    other: Mapping[str, str] = {}
    """What else it can be: a description of the text, by media type."""
    headers: tuple[Header, ...] = ()
    leads_to: tuple[str, ...] = ()
    """Operations on the GUID that the body names."""


@dataclass(frozen=True)
class OperationSpec:
    """What a method takes, and how it answers. Its docstring says what it does."""

    name: str
    """What clients that are generated call it: a verb in lower case, and a noun."""
    summary: str
    answers: tuple[ResponseSpec, ...]
    query: type[BaseModel] | None = None
    headers: tuple[Header, ...] = ()
    body: type[BaseModel] | None = None
    """What is sent, as JSON."""
    media_types: tuple[str, ...] = (JSON,)
    """What that is called."""
    other: Mapping[str, str] = field(default_factory=dict)
    """What else can be sent: a description of the text, by media type."""
    problems: tuple[type[Exception], ...] = ()
    """Those of its own; `Unavailable` and a fault of the service can happen anywhere."""
    required_scope: Needs | None = None
    """What it takes where access is controlled: a scope, or any key; None if it is open to all."""

    @property
    def request_headers(self) -> tuple[Header, ...]:
        """The headers that it takes."""
        return (*self.headers, GIVEN_ID)


def operation(name: str, summary: str, *answers: ResponseSpec, **more: Any) -> Callable[[_Method], _Method]:
    """Declare what the method below it is; `more` are the fields of an Operation."""
    described = OperationSpec(name, summary, answers, **more)

    def declare(method: _Method) -> _Method:
        vars(method)["operation"] = described
        return method

    return declare


def needs_of(method: Callable[..., Any]) -> Needs | None:
    """Return what a method takes; None if that is nothing, or it is none that is served."""
    declared: OperationSpec | None = getattr(method, "operation", None)
    return None if declared is None else declared.required_scope


def operation_of(method: Callable[..., Any]) -> OperationSpec:
    """Return what is declared of a method; AttributeError if nothing is."""
    declared: OperationSpec = method.operation  # type: ignore[attr-defined]  # which `operation` has set
    return declared
