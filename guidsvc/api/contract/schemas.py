"""What the service answers, and what a batch is, as models that describe it.

Handlers render by themselves, and tests hold them to these.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from guidsvc.domain.api_key import EXAMPLE_ID, KEY_ID_PATTERN, SECRET_CHARACTERS, KeyState, format_key
from guidsvc.domain.caller import Scope
from guidsvc.domain.commands import MAX_OPERATIONS, BatchOperation, CreateCommand, PatchCommand, PutCommand
from guidsvc.domain.record import EXAMPLE, EXAMPLE_GUID, GUID_PATTERN, METADATA, USER, State

_EXAMPLE = {"guid": EXAMPLE_GUID} | EXAMPLE
_FULL = {
    "created": "1795420608123",
    "updated": "1795420608123",
    "version": "1795420608123",
    "purge_at": "4103049600",
    "state": "live",
    "owner": "alice",
}

_EXAMPLE_KEY: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "owner": EXAMPLE["user"],
    "scopes": ["read", "write"],
    "created": "1795420608123",
    "state": "live",
}
_EXAMPLE_TEXT = format_key(EXAMPLE_ID, "0" * SECRET_CHARACTERS)

_Digits = Annotated[str, Field(pattern="^[0-9]+$")]


def _closed(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(examples)})


def _perhaps(description: str) -> Any:
    return Field(default=None, description=description, json_schema_extra=_forget_default)


def _forget_default(schema: dict[str, Any]) -> None:
    schema.pop("default")


class Record(BaseModel):
    """A registered GUID. What follows `metadata` is there with `view=full`; `metadata` where there are some."""

    model_config = _closed(_EXAMPLE, _EXAMPLE | {"metadata": {"colour": "blue"}} | _FULL)

    guid: Annotated[str, Field(pattern=GUID_PATTERN)]
    expire: Annotated[_Digits, Field(description="Until when it is valid: Unix seconds.")]
    user: Annotated[str, WithJsonSchema(USER)]
    metadata: Annotated[dict[str, Any], WithJsonSchema(METADATA)] = _perhaps("Any JSON object.")
    created: _Digits = _perhaps("Unix milliseconds.")
    updated: _Digits = _perhaps("Unix milliseconds.")
    version: _Digits = _perhaps("Rises with every change; the ETag is made of it.")
    purge_at: _Digits = _perhaps("When the service may forget it: Unix seconds.")
    state: State = _perhaps("Whether it is valid still.")
    owner: str = _perhaps("Whose key or token created it, for admins only; empty if access was not controlled then.")


class Page(BaseModel):
    """Some of the records that were selected."""

    model_config = _closed({"items": [_EXAMPLE], "next": None, "total": 1})

    items: list[Record]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last one.")]
    total: int = _perhaps("How many are selected in all, with `Prefer: return=total-count`.")


class Key(BaseModel):
    """What is known of an API key."""

    model_config = _closed(_EXAMPLE_KEY, _EXAMPLE_KEY | {"used": "1795424400000", "expire": "4102444800"})

    id: Annotated[str, Field(pattern=KEY_ID_PATTERN)]
    owner: Annotated[str, WithJsonSchema(USER), Field(description="Whose records it opens.")]
    scopes: Annotated[list[Scope], Field(min_length=1, description="What it may do to them.")]
    created: Annotated[_Digits, Field(description="Unix milliseconds.")]
    used: _Digits = _perhaps("Within the hour before it was used last: Unix milliseconds. Not there if it never was.")
    expire: _Digits = _perhaps("Until when it is good: Unix seconds. Not there if that is for ever.")
    state: Annotated[KeyState, Field(description="Whether it is good, or why not.")]


class IssuedKey(Key):
    """An API key that was just made, or rotated."""

    model_config = _closed(_EXAMPLE_KEY | {"key": _EXAMPLE_TEXT})

    key: Annotated[str, Field(description="What is to be shown as `Authorization: Bearer`. It is told this once.")]


class KeyPage(BaseModel):
    """Some of the API keys."""

    model_config = _closed({"items": [_EXAMPLE_KEY], "next": None})

    items: list[Key]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last one.")]


class Live(BaseModel):
    """The service is alive."""

    model_config = _closed({"status": "live"})

    status: Literal["live"]


class Ready(BaseModel):
    """The service can serve; `degraded` without its cache, or where the store takes no writes."""

    model_config = _closed({"status": "ready", "store": "up", "cache": "up"})

    status: Literal["ready", "degraded"]
    store: Literal["up", "read-only", "replaced"]
    cache: Literal["up", "down"]


class Version(BaseModel):
    """Which guidsvc this is."""

    model_config = _closed({"name": "guidsvc", "version": "0.1.0"})

    name: Literal["guidsvc"]
    version: str


class Root(Version):
    """Where a visitor starts."""

    model_config = _closed({"name": "guidsvc", "version": "0.1.0", "links": {"guid": "/guid"}})

    links: dict[str, str]


class Document(BaseModel):
    """An OpenAPI document."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"openapi": "3.1.1"}]})

    openapi: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    code: str
    detail: Annotated[str, Field(description="What is wrong with this request.")]
    request_id: Annotated[str, Field(description="What the request is called in the log.")]


class Fault(BaseModel):
    """One thing that is wrong with a request: where, and what."""

    model_config = ConfigDict(extra="forbid")

    detail: str
    pointer: str = _perhaps("Where in the body: a JSON Pointer (RFC 6901), empty for all of it.")
    parameter: str = _perhaps("Which parameter of the query.")
    header: str = _perhaps("Which header.")


class Faulty(Problem):
    """Says all that is wrong with a request."""

    errors: list[Fault]


class Outdated(Problem):
    """Says until when a GUID was valid, and until when it can be renewed: Unix seconds."""

    expired_at: _Digits
    renewable_until: _Digits


class AnyProblem(Problem):
    """A problem of any kind, with the members that are its own."""

    model_config = ConfigDict(extra="allow")

    line: int = _perhaps("Which line it is about, from 1, where operations are lines.")


class Result(BaseModel):
    """What became of an operation: a record, or a problem."""

    model_config = _closed({"status": 201, "guid": EXAMPLE_GUID, "etag": '"1795420608123"', "record": _EXAMPLE})

    status: Annotated[int, Field(description="The status that a request of its own would have had.")]
    guid: Annotated[str, Field(pattern=GUID_PATTERN)] = _perhaps("Of which GUID.")
    etag: str = _perhaps("The version of the record, as an entity tag.")
    record: Record = _perhaps(
        "The record as it now is; not there if the answer has no room for it, or if a key without the scope `read` "
        "updated it."
    )
    problem: AnyProblem = _perhaps("What went wrong.")
    line: int = _perhaps("Which line failed, from 1, where a hundred before it did, and there is no problem.")


class Results(BaseModel):
    """What became of each operation, in order."""

    model_config = _closed({"results": [{"status": 204, "guid": EXAMPLE_GUID}]})

    results: list[Result]


# The document shows the bodies of requests under these names, from which clients are generated.
Change = create_model("Change", __base__=PutCommand, __doc__=PutCommand.__doc__)
Patch = create_model("Patch", __base__=PatchCommand, __doc__=PatchCommand.__doc__)
Creation = create_model("Creation", __base__=CreateCommand, __doc__=CreateCommand.__doc__)
Operation = create_model("Operation", __base__=BatchOperation, __doc__=BatchOperation.__doc__)


class Batch(BaseModel):
    """Operations to be done, in order where they are of one GUID."""

    model_config = _closed({"operations": [{"user": EXAMPLE["user"]}]})

    operations: Annotated[list[Operation], Field(max_length=MAX_OPERATIONS)]  # type: ignore[valid-type]  # it is a class


class Conflicting(Problem):
    """Brings the record that there is, if there is one."""

    record: Record = _perhaps("The record as it is, if the key has the scope `read`.")


PROBLEMS: dict[str, type[Problem]] = {
    "invalid-request": Faulty,
    "expired": Outdated,
    "precondition-failed": Conflicting,
}
"""The shapes of problems that have members of their own, by code."""


class Explanation(BaseModel):
    """What a problem means."""

    model_config = ConfigDict(extra="forbid")

    code: str
    title: str
    status: int
    when: Annotated[str, Field(description="When it happens.")]
    remedy: Annotated[str, Field(description="What to do.")]
    example: Annotated[dict[str, Any], Field(description="What it looks like.")]
