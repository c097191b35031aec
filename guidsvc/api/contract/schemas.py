"""Schemas of response bodies and batches, for the OpenAPI document.

Handlers do not use these models to render responses; tests validate the responses against them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from guidsvc.api.contract.lease_schemas import Renewal
from guidsvc.domain.api_key import EXAMPLE_ID, KEY_ID_PATTERN, SECRET_CHARACTERS, KeyState, format_key
from guidsvc.domain.caller import SCOPES, Scope
from guidsvc.domain.commands import MAX_OPERATIONS, BatchOperation, CreateCommand, PatchCommand, PutCommand
from guidsvc.domain.record import EXAMPLE, EXAMPLE_GUID, GUID_PATTERN, METADATA, State

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


class GuidRecord(BaseModel):
    """A registered GUID. `metadata` is present if the record has any, the members after it only with `view=full`."""

    model_config = _closed(_EXAMPLE, _EXAMPLE | {"metadata": {"colour": "blue"}} | _FULL)

    guid: Annotated[str, Field(pattern=GUID_PATTERN)]
    expire: Annotated[_Digits, Field(description="The expiry, in Unix seconds.")]
    user: str
    metadata: Annotated[dict[str, Any], WithJsonSchema(METADATA)] = _perhaps("Any JSON object.")
    created: _Digits = _perhaps("The time of creation, in Unix milliseconds.")
    updated: _Digits = _perhaps("The time of the last change, in Unix milliseconds.")
    version: _Digits = _perhaps("Rises with every change. The `ETag` contains it.")
    purge_at: _Digits = _perhaps("The end of the retention period, after which the record is purged, in Unix seconds.")
    state: State = _perhaps("Whether the GUID is valid.")
    owner: str = _perhaps("The owner of the record, for admins only; empty if it was created without access control.")


class Page(BaseModel):
    """A page of the records that match the query."""

    model_config = _closed({"items": [_EXAMPLE], "next": None, "total": 1})

    items: list[GuidRecord]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last page.")]
    total: int = _perhaps("The number of matching records on all pages, with `Prefer: return=total-count`.")


class Key(BaseModel):
    """The description of an API key."""

    model_config = _closed(_EXAMPLE_KEY, _EXAMPLE_KEY | {"used": "1795424400000", "expire": "4102444800"})

    id: Annotated[str, Field(pattern=KEY_ID_PATTERN)]
    owner: Annotated[str, Field(description="The owner whose records the key can access.")]
    scopes: Annotated[list[Scope], Field(min_length=1, description="What the key may do.")]
    created: Annotated[_Digits, Field(description="The time of creation, in Unix milliseconds.")]
    note: str = _perhaps("What the key is for. Absent if it has no note.")
    used: _Digits = _perhaps("The last use, accurate to one hour, in Unix milliseconds. Absent if it was never used.")
    expire: _Digits = _perhaps("The expiry, in Unix seconds. Absent if the key does not expire.")
    max_ttl: _Digits = _perhaps("The longest life that it may give a GUID, from now. Absent without such a limit.")
    max_life: _Digits = _perhaps("The same from the creation of the GUID.")
    state: Annotated[KeyState, Field(description="Whether the key is valid, or why it is not.")]


class IssuedKey(Key):
    """An API key that was just created or rotated, with its text."""

    model_config = _closed(_EXAMPLE_KEY | {"key": _EXAMPLE_TEXT})

    key: Annotated[
        str, Field(description="Send it as `Authorization: Bearer <key>`. It is shown only in this response.")
    ]


class RateLeft(BaseModel):
    """A limit of requests, its window in seconds, and the number of requests that are left in it."""

    model_config = _closed({"limit": 600, "seconds": 60, "left": 594})

    limit: Annotated[int, Field(description="The maximum number of requests in a window.")]
    seconds: int
    left: int


class QuotaUsed(BaseModel):
    """The quota of an owner, and what it uses."""

    model_config = _closed({"limit": 1000, "live": 12})

    limit: Annotated[int, Field(description="The maximum number of live GUIDs of the owner.")]
    live: Annotated[int, Field(description="The number of live GUIDs of the owner.")]


class OwnKey(BaseModel):
    """The key or token of a request. Without access control, only `access` and `scopes`."""

    model_config = _closed({"access": "keys"} | _EXAMPLE_KEY, {"access": "off", "scopes": list(SCOPES)})

    access: Annotated[Literal["keys", "off"], Field(description="Whether access is controlled.")]
    id: Annotated[str, Field(pattern=KEY_ID_PATTERN)] = _perhaps("The id of the key. Absent for a token.")
    owner: str = _perhaps("The owner whose records you can access.")
    scopes: Annotated[list[Scope], Field(description="What you may do.")]
    created: _Digits = _perhaps("The time of creation of the key, in Unix milliseconds. Absent for a token.")
    note: str = _perhaps("What the key is for. Absent if it has no note.")
    used: _Digits = _perhaps("The last use of the key, accurate to one hour, in Unix milliseconds.")
    expire: _Digits = _perhaps("The expiry of the key or token, in Unix seconds. Absent if it does not expire.")
    max_ttl: _Digits = _perhaps("The longest life that you may give a GUID, from now. Absent without such a limit.")
    max_life: _Digits = _perhaps("The same from the creation of the GUID.")
    state: KeyState = _perhaps("Always `live`.")
    rate: RateLeft = _perhaps("The rate limit. Absent without one.")
    quota: QuotaUsed = _perhaps("The quota. Absent without one, and if the scope `write` is missing.")


class KeyPage(BaseModel):
    """A page of API keys."""

    model_config = _closed({"items": [_EXAMPLE_KEY], "next": None})

    items: list[Key]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last page.")]


class Live(BaseModel):
    """The process is alive."""

    model_config = _closed({"status": "live"})

    status: Literal["live"]


_AGE = "The age of the states, in milliseconds: a background task checks each part every second."


class Readiness(BaseModel):
    """The service is ready. It is `degraded` without its cache, or if the store rejects writes."""

    model_config = _closed({"ready": True, "status": "ready", "store": "up", "cache": "up", "age_ms": 250})

    ready: Literal[True]
    status: Literal["ready", "degraded"]
    store: Literal["up", "read-only", "replaced"]
    cache: Literal["up", "down"]
    age_ms: Annotated[int, Field(ge=0, description=_AGE)]


class ServiceVersion(BaseModel):
    """The name and version of the service."""

    model_config = _closed({"name": "guidsvc", "version": "0.1.0"})

    name: Literal["guidsvc"]
    version: str


class Root(ServiceVersion):
    """The name and version of the service, with links to its paths."""

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
    detail: Annotated[str, Field(description="What is wrong, and what to do.")]
    request_id: Annotated[str, Field(description="The id of the request, also in the log of the service.")]


class Fault(BaseModel):
    """One fault in a request: where it is, and what is wrong."""

    model_config = ConfigDict(extra="forbid")

    detail: str
    pointer: str = _perhaps("The place in the body, as a JSON Pointer (RFC 6901); empty for the whole body.")
    parameter: str = _perhaps("The name of the query parameter.")
    header: str = _perhaps("The name of the header.")


class Faulty(Problem):
    """A problem that lists every fault of the request."""

    errors: list[Fault]


class Outdated(Problem):
    """A problem with the expiry of the GUID and the end of its renewal period, in Unix seconds."""

    expired_at: _Digits
    renewable_until: _Digits


class AnyProblem(Problem):
    """A problem of any type, with its specific members."""

    model_config = ConfigDict(extra="allow")

    line: int = _perhaps("In a batch of lines: the number of the line, from 1.")


class Result(BaseModel):
    """The result of an operation: a record, or a problem."""

    model_config = _closed({"status": 201, "guid": EXAMPLE_GUID, "etag": '"1795420608123"', "record": _EXAMPLE})

    status: Annotated[int, Field(description="The status that a separate request would have had.")]
    guid: Annotated[str, Field(pattern=GUID_PATTERN)] = _perhaps("The GUID of the record.")
    etag: str = _perhaps("The version of the record, as an entity tag.")
    record: GuidRecord = _perhaps(
        "The current record. Absent if it does not fit into the response, or if a key without the scope `read` "
        "updated it."
    )
    renewal: Renewal = _perhaps("The result of a `renew`.")
    problem: AnyProblem = _perhaps("The problem, if the operation failed.")
    line: int = _perhaps(
        "In a batch of lines, after 100 failures: the number of the failed line, from 1. `problem` is then absent."
    )


class BatchResults(BaseModel):
    """The results of the operations, in the same order."""

    model_config = _closed({"results": [{"status": 204, "guid": EXAMPLE_GUID}]})

    results: list[Result]


# The names of the request bodies in the OpenAPI document. Generated clients name their classes after them.
Change = create_model("Change", __base__=PutCommand, __doc__=PutCommand.__doc__)
Patch = create_model("Patch", __base__=PatchCommand, __doc__=PatchCommand.__doc__)
Creation = create_model("Creation", __base__=CreateCommand, __doc__=CreateCommand.__doc__)
Operation = create_model("Operation", __base__=BatchOperation, __doc__=BatchOperation.__doc__)


class Batch(BaseModel):
    """Operations to execute. Those on the same GUID run in order."""

    model_config = _closed({"operations": [{"user": EXAMPLE["user"]}]})

    operations: Annotated[list[Operation], Field(max_length=MAX_OPERATIONS)]  # type: ignore[valid-type]  # create_model returns a class


class Conflicting(Problem):
    """A problem with the current record, if there is one."""

    record: GuidRecord = _perhaps("The current record, if the key has the scope `read`.")


class Unready(Problem):
    """A problem of a part of the service. Only `/readyz` adds the state of each part."""

    ready: Literal[False] = _perhaps("Whether the service is ready for requests.")
    store: Literal["up", "down", "read-only", "replaced"] = _perhaps("The last known state of the store.")
    cache: Literal["up", "down"] = _perhaps("The last known state of the cache.")
    age_ms: int = _perhaps(_AGE)


PROBLEMS: dict[str, type[Problem]] = {
    "invalid-request": Faulty,
    "expired": Outdated,
    "precondition-failed": Conflicting,
    "unavailable": Unready,
}
"""The schemas of problems with specific members, by code."""


class ProblemSummary(BaseModel):
    """A problem in the list of all."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[str, Field(description="The `type` of such an error: the path of its explanation, or its URL.")]
    code: str
    title: str
    status: int
    when: Annotated[str, Field(description="When the problem occurs.")]


class ProblemList(BaseModel):
    """All problems."""

    model_config = ConfigDict(extra="forbid")

    problems: list[ProblemSummary]


class Explanation(BaseModel):
    """The explanation of a problem."""

    model_config = ConfigDict(extra="forbid")

    code: str
    title: str
    status: int
    when: Annotated[str, Field(description="When the problem occurs.")]
    remedy: Annotated[str, Field(description="What to do about it.")]
    example: Annotated[dict[str, Any], Field(description="An example of the problem.")]
