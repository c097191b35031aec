"""A batch of lines: it is sent once, and each line has an outcome.

The batch has an idempotency key, which its repetition has too, so that the service answers it again without executing
it again. Operations that the service could not execute are sent again with another key, and so is a batch whose outcome
the service does not know: a part of it may be executed twice.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from guidsvc.cli.remote.transfer.lines import Operation, halves, parts_without_repeats
from guidsvc_client import (
    Client,
    Expired,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Problem,
    ReceiptsFull,
    Record,
    Result,
    TooLarge,
)

Policy = Literal["skip", "overwrite", "fail"]
Kind = Literal["created", "updated", "unchanged", "skipped", "conflict", "failed"]
ATTEMPTS = 5
"""Number of attempts for an operation that the service cannot execute now."""
_REFUSED = {401, 403}
"""Statuses of operations that need another key, or other limits: they stop the import."""
_UNDECIDED = {*_REFUSED, 429, 500, 503, 504}
"""Statuses of operations that may have success later."""
_PRECONDITION_FAILED = 412


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a line."""

    number: int
    kind: Kind
    detail: str = ""


class BatchSender:
    """Sends batches under one policy for GUIDs that exist already."""

    def __init__(self, client: Client, policy: Policy, *, is_dry: bool) -> None:
        self._client = client
        self.policy = policy
        self.is_dry = is_dry

    def send(self, operations: Sequence[Operation], key: str) -> Iterator[Outcome]:
        """Put the records, and yield the outcome of each. Raise the error that stops the import.

        Lines of one GUID are executed in order, also if some must be sent again.
        """
        for number, part in enumerate(parts_without_repeats(operations)):
            yield from self._send_until_done(part, f"{key}-{number}")

    def _send_until_done(self, operations: Sequence[Operation], key: str) -> Iterator[Outcome]:
        """Send operations again as long as some are undecided.

        The results may be those of an earlier run with this key. So what the first attempt rejects is tried once more,
        and the last attempt has a key of its own.
        """
        pending = list(operations)
        for attempt in range(ATTEMPTS):
            undecided: list[tuple[Operation, Problem]] = []
            for operation, result in self._results(pending, _key(key, attempt)):
                if result.error is not None and self._is_undecided(result, is_first=not attempt):
                    undecided.append((operation, result.error))
                else:
                    yield self._outcome(operation, result)
            refusals = [error for _, error in undecided if attempt and error.status in _REFUSED]
            if not undecided or refusals:
                break
            pending = [operation for operation, _ in undecided]
            _pause(attempt)
        if undecided:
            raise (refusals or [undecided[0][1]])[0]

    def _is_undecided(self, result: Result, *, is_first: bool) -> bool:
        """Return whether to send an operation again."""
        is_conflict = result.status == _PRECONDITION_FAILED and self.policy == "fail"
        return result.status in _UNDECIDED or (is_first and is_conflict and not self.is_dry)

    def _results(self, operations: Sequence[Operation], key: str) -> Iterator[tuple[Operation, Result]]:
        """Yield the results. A batch that the service rejects as a whole is divided."""
        try:
            yield from zip(operations, self._batch(operations, key), strict=True)
        except (InvalidRequest, TooLarge) as error:
            if len(operations) == 1:
                yield operations[0], _failed(operations[0], error)
                return
            for index, half in enumerate(halves(operations)):
                yield from self._results(half, f"{key}{index}")
        except ReceiptsFull:  # no batch can be repeated safely now, but each put can
            for operation in operations:
                yield operation, self._put(operation)

    def _batch(self, operations: Sequence[Operation], key: str) -> Sequence[Result]:
        try:
            return self._send(operations, key)
        except (OutcomeUnknown, IdempotencyMismatch):  # the service died in the batch, or the file was changed
            return self._send(operations, uuid4().hex)

    def _send(self, operations: Sequence[Operation], key: str) -> Sequence[Result]:
        puts: list[Any] = [{"guid": each.guid, **each.members, **self._condition()} for each in operations]
        return self._client.batch(puts, minimal=True, validate_only=self.is_dry, idempotency_key=key)

    def _condition(self) -> dict[str, Any]:
        return {} if self.policy == "overwrite" else {"if_none_match": "*"}

    def _put(self, operation: Operation) -> Result:
        try:
            members: dict[str, Any] = {**operation.members, **self._condition()}
            record = self._client.put(operation.guid, **members)
        except Problem as problem:
            return _failed(operation, problem)
        status = 200 if self.policy == "overwrite" else 201
        return Result(status, operation.guid, record.version, record, None, None)

    def _outcome(self, operation: Operation, result: Result) -> Outcome:
        if result.guid not in {None, operation.guid}:
            return Outcome(operation.number, "failed", f"the response is about another GUID, {result.guid}")
        if result.error is None:
            return Outcome(operation.number, "created" if result.status == 201 else "updated")  # noqa: PLR2004
        if result.status != _PRECONDITION_FAILED:
            return Outcome(operation.number, "failed", result.error.detail)
        if self.policy == "skip":
            return Outcome(operation.number, "skipped")
        if self._is_there(operation):
            return Outcome(operation.number, "unchanged")
        return Outcome(operation.number, "conflict", f"{operation.guid} exists with other members")

    def _is_there(self, operation: Operation) -> bool:
        """Return whether a record is as a line says: then there is nothing to do, as after a kill in the batch."""
        try:
            return _shows(self._client.get(operation.guid), operation)
        except Expired as error:
            return operation.members.get("expire") == error.expired_at
        except NotFound:
            return False


def _key(key: str, attempt: int) -> str:
    """Return the idempotency key of an attempt."""
    return f"{key}-{attempt}-" if attempt < ATTEMPTS - 1 else uuid4().hex


def _shows(record: Record, operation: Operation) -> bool:
    given = operation.members
    return bool(
        record.user == given.get("user", record.user)
        and record.expire == given.get("expire", record.expire)
        and record.metadata == given.get("metadata", {})
    )


def _failed(operation: Operation, problem: Problem) -> Result:
    return Result(problem.status, operation.guid, None, None, None, problem)


def _pause(attempt: int) -> None:
    time.sleep(min(5.0, 0.1 * 4.0**attempt) * random.uniform(0.5, 1))  # noqa: S311  # nosec B311  # no secret
