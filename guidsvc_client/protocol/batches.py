"""Batches: many operations in one request, with a result for each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict

from guidsvc_client.models import Document, FullRecord, Record, Renewal
from guidsvc_client.problems import Problem, problem_of
from guidsvc_client.protocol.call import JSON, Call, Reply, dump, with_key
from guidsvc_client.protocol.calls import FULL
from guidsvc_client.protocol.values import Duration, Guid, Moment, Version, version_of, wire_members

_SUCCESSES, _ERRORS = {*range(200, 300), 304}, range(400, 600)
"""Statuses of results without and with an error."""
MAX_OPERATIONS, MAX_BYTES = 1000, 4_000_000
"""Limits of one request, the second a little below that of the service."""


class Operation(TypedDict, total=False):
    """An operation of a batch: `op` is `put` by default. A put or a renewal has the members that it sets."""

    op: Literal["put", "get", "delete", "renew"]
    guid: Guid
    user: str
    expire: Moment
    ttl: Duration
    spread: Duration
    metadata: Mapping[str, Any]
    if_match: Version
    if_none_match: Version
    valid_for: Duration
    if_below: Duration
    at_least: Duration
    revive: bool


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an operation: `record` or `renewal`, or `error`."""

    status: int
    guid: str | None
    version: int | None
    record: Record | None
    renewal: Renewal | None
    error: Problem | None

    @classmethod
    def from_wire(cls, document: Document, url: str) -> Self:
        """Return a result of a batch of the service at a URL."""
        status, etag = document["status"], document.get("etag")
        version = version_of(etag)
        record, renewal, problem = (document.get(name) for name in ("record", "renewal", "problem"))
        if status not in (_ERRORS if problem else _SUCCESSES):
            raise ValueError(f"{status!r} is no status of such a result")
        return cls(
            status=status,
            guid=document.get("guid"),
            version=version,
            record=record and (FullRecord if "created" in record else Record).from_wire(record, version),
            renewal=renewal and Renewal.from_wire(renewal, version),
            error=problem and problem_of(problem, {"etag": etag or ""}, url),
        )


class BatchOptions(TypedDict, total=False):
    """How a batch is executed and answered.

    `full` returns all members of the records, and `minimal` no records. `validate_only` changes nothing. With an
    `idempotency_key` of its own, the caller can repeat the batch itself, even after a restart, for 24 hours.
    """

    full: bool
    minimal: bool
    validate_only: bool
    idempotency_key: str


def batch(operations: Iterable[bytes], options: BatchOptions | None = None) -> Call[Sequence[Result]]:
    """Execute operations, given as JSON."""
    given, parts = options or {}, list(operations)

    def read(reply: Reply) -> Sequence[Result]:
        results = [Result.from_wire(each, reply.url) for each in reply.json["results"]]
        if len(results) != len(parts):
            raise ValueError(f"{len(results)} results of {len(parts)} operations")
        return results

    query = (FULL if given.get("full") else {}) | ({"validate_only": "true"} if given.get("validate_only") else {})
    content = b'{"operations":[%b]}' % b",".join(parts)
    headers = {"Content-Type": JSON} | ({"Prefer": "return=minimal"} if given.get("minimal") else {})
    call = Call(method="POST", path="/guid:batch", read=read, query=query, content=content, headers=headers)
    return with_key(call, given.get("idempotency_key"))


def rendered(operation: Record | Mapping[str, Any]) -> bytes:
    """Return an operation as JSON. That of a record puts it as it is, whatever its version."""
    if isinstance(operation, Record):
        members = ("guid", "user", "expire", "metadata")
        return dump({name: getattr(operation, name) for name in members})
    return dump(wire_members(operation))


def chunks(operations: Iterable[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """Divide operations into batches that the service accepts, in order."""
    chunk: list[bytes] = []
    size_bytes = 0
    for operation in operations:
        if chunk and (len(chunk) >= min(most, MAX_OPERATIONS) or size_bytes + len(operation) > MAX_BYTES):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(operation)
        size_bytes += len(operation) + 1
    if chunk:
        yield chunk
