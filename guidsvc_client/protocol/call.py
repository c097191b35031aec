"""A call: one request of the interface, and the reader of its response."""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import urlencode
from uuid import uuid4

from guidsvc_client.errors import GuidsvcError, RecordWithheld, UnexpectedResponse
from guidsvc_client.models import Record
from guidsvc_client.problems import Problem, problem_of
from guidsvc_client.protocol.values import version_of

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=Record)
JSON, NDJSON, MERGE_PATCH = "application/json", "application/x-ndjson", "application/merge-patch+json"
_PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. The names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str
    """The address of the service, for the paths in the response."""

    @property
    def json(self) -> Any:
        """The content, which must be JSON."""
        return json.loads(self.content)

    @property
    def version(self) -> int | None:
        """The version in the ETag."""
        return version_of(self.headers.get("etag"))

    def check(self) -> None:
        """Raise the error that the response reports, if it does."""
        if self.status < 300:  # noqa: PLR2004  # 200, 201 and 204
            return
        if self.headers.get("content-type", "").startswith(_PROBLEM):
            with self.reading():
                problem = problem_of(self.json, self.headers, self.url)
            raise problem
        raise UnexpectedResponse(self.status, self.content)

    @contextmanager
    def reading(self) -> Generator[None]:
        """Raise UnexpectedResponse instead of any error of the block, which reads the response.

        The response may come from a proxy, or from any other program, with members of other types, endless numbers, or
        JSON too deep for Python.
        """
        try:
            yield
        except GuidsvcError:
            raise
        except Exception as error:
            raise UnexpectedResponse(self.status, self.content) from error


def _reject(problem: Problem) -> NoReturn:
    raise problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request, and the function that reads its response."""

    method: str
    path: str
    read: Callable[[Reply], T]
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes | None = None
    is_repeatable: bool = True
    """Whether a second request has no further effect, so that it may follow a request with an unknown outcome."""
    settle: Callable[[Problem], T] = _reject
    """Returns the result if the rejection of a repetition shows that an earlier attempt had success; else raises."""
    accepts: frozenset[int] = frozenset()
    """The statuses of errors that `read` can read."""
    wait_seconds: float = 0
    """Additional seconds that the response may take."""

    @property
    def target(self) -> str:
        """The path with the query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    def result(self, reply: Reply) -> T:
        """Return the result that the response reports, or raise its error."""
        if reply.status not in self.accepts:
            reply.check()
        with reply.reading():
            return self.read(reply)


@dataclass(frozen=True, slots=True)
class Pause:
    """A step of a flow: wait."""

    seconds: float


Flow = Generator[Call[Any] | Pause, Any, T]
"""Several calls and their result. The client performs each step, and sends back its result or its error."""


def send(call: Call[T]) -> Flow[T]:
    """Let a flow send a call."""
    result: T = yield call
    return result


def with_json(call: Call[T], body: object, content_type: str = JSON) -> Call[T]:
    """Return a call with a body of JSON."""
    return replace(call, content=dump(body), headers={**call.headers, "Content-Type": content_type})


def with_key(call: Call[T], key: str | None) -> Call[T]:
    """Return a call with this idempotency key, or a new one: repetitions get the first response."""
    return replace(call, headers={**call.headers, "Idempotency-Key": key or uuid4().hex})


def dump(value: object) -> bytes:
    """Return compact JSON in UTF-8. TypeError or ValueError if there is none."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"metadata, or another argument, has no form in JSON: {error}") from error
    return text.encode()


def record_reader(kind: type[RecordT]) -> Callable[[Reply], RecordT]:
    """Return a function that reads a record from a response."""

    def read(reply: Reply) -> RecordT:
        if not reply.content:
            raise RecordWithheld(reply.version)
        return kind.from_wire(reply.json, reply.version)

    return read


def read_nothing(reply: Reply) -> None:
    """Read a response without content."""
