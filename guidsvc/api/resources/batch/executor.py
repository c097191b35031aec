"""Batch executor: runs each operation of a batch like a separate request, and returns a result for each."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog
from pydantic_core import to_json

from guidsvc.api.contract import problems
from guidsvc.api.execution.guid_actions import OPERATION_SCOPES, renewal_json
from guidsvc.api.parsing import conditional as conditions
from guidsvc.api.resources.batch.operations import ParsedOperation
from guidsvc.api.resources.batch.served_record import ServedRecord
from guidsvc.domain.caller import Needs
from guidsvc.domain.commands import BatchOperation
from guidsvc.domain.guid_generator import GuidGenerator
from guidsvc.domain.leases.renewal import Renewal
from guidsvc.domain.preconditions import Conditions, etag_of
from guidsvc.domain.record import Record
from guidsvc.errors import (
    ClientDisconnected,
    Forbidden,
    GuidsvcError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
)
from guidsvc.http.errors import TooLarge
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.fairness.iteration_budget import IterationBudget
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import GuidFactory
from guidsvc.telemetry.tracing import hide_waits

GROUP = 128
"""Maximum number of concurrent operations of a batch: enough to share a commit, few enough to not delay others long."""
START_SECONDS = 0.005
"""Time in one iteration of the event loop after which other operations of a group start, or fail, in a later one."""

BRIEF_BYTES = 768
"""Maximum size of a brief result: without the record, and with only the members that every problem has."""
_NO_ROOM = "The record does not fit into the results of this batch: read it with a separate request."

_log = structlog.get_logger(__name__)
_Put = tuple[str, BatchOperation, Conditions]


class Result(NamedTuple):
    """The result of an operation as JSON, full and brief. `is_done` if the operation may have changed something."""

    status: int
    full: bytes
    brief: bytes
    is_done: bool = False
    fallback: bytes | None = None
    """Replacement for a full result that does not fit; None for the brief result."""
    served: ServedRecord | None = None
    """The record that a read serves."""
    unknown_guid: str | None = None
    """The generated GUID of a creation whose outcome is unknown."""

    @property
    def is_failure(self) -> bool:
        """Whether the result is a problem."""
        return self.status >= 400  # noqa: PLR2004  # 4xx and 5xx are errors

    def fit(self, max_bytes: int) -> bytes:
        """Return the full result if it has at most `max_bytes`, else its replacement."""
        if len(self.full) <= max_bytes:
            return self.full
        return self.brief if self.fallback is None else self.fallback

    def record_served_by(self, text: bytes) -> ServedRecord | None:
        """Return the record that a text of `fit` serves, or None if it serves none."""
        return None if text is self.fallback else self.served


class Authority(Protocol):
    """The rights of the caller of a request."""

    def require_scope(self, needs: Needs) -> None:
        """Raise Forbidden if the caller lacks a scope."""

    async def confirm(self) -> None:
        """Raise an error if the caller has lost its authority."""


class BatchExecutor:
    """Executes the operations of one request. `full` and `minimal` select how much of a record a result contains.

    `base` is the address of the service, for the `type` of problems.
    """

    def __init__(
        self,
        service: GuidService,
        authority: Authority,
        request_id: str,
        *,
        full: bool,
        minimal: bool,
        base: str = "",
    ) -> None:
        self._service = service
        self._authority = authority
        self._request_id = request_id
        self._full = full
        self._minimal = minimal
        self._base = base
        self._logged_failure = ""  # logged once in a row: hundreds of operations may fail for one reason

    async def perform(
        self, operations: Sequence[ParsedOperation], guid_factory: GuidFactory | None = None
    ) -> list[Result]:
        """Run the operations and return their results. Those on the same GUID run in order, others concurrently.

        Raise an error, with nothing done, if the caller has lost its authority.
        """
        with cancel_scope.shielded():  # each completed operation must have its result
            await self._authority.confirm()
            return await self._perform(operations, guid_factory)

    def has_come(self, time: int) -> bool:
        """Whether a time in Unix seconds has been reached."""
        return self._service.now() >= time * 1000

    def error_of(self, served: ServedRecord) -> GuidsvcError | None:
        """Return the error of a read, if it would fail now."""
        return served.error(self._service.now())

    def reject(self, error: Exception, line: int | None = None) -> Result:
        """Return the result of an operation that was not run because of this error."""
        return self._problem_result(error, line)

    async def _perform(self, operations: Sequence[ParsedOperation], guid_factory: GuidFactory | None) -> list[Result]:
        results: list[Result] = [_NO_RESULT] * len(operations)
        by_guid: dict[object, list[int]] = {}
        for index, (operation, _) in enumerate(operations):
            by_guid.setdefault(getattr(operation, "guid", None) or index, []).append(index)

        budget = IterationBudget(START_SECONDS)  # from SQLite, an operation reads its record as soon as it starts

        async def in_order(indexes: list[int]) -> None:
            await budget.wait()
            for index in indexes:
                results[index] = await self._result(operations[index], guid_factory and guid_factory(index))

        sole = [first for first, *others in by_guid.values() if not others]
        puts = await _puts_among(operations, sole, budget)

        async def together() -> None:
            await self._put_together(operations, puts, results, budget)
            await asyncio.gather(*(in_order([index]) for index in puts if results[index] is _NO_RESULT))

        one_by_one = [indexes for indexes in by_guid.values() if indexes[0] not in puts]
        await asyncio.gather(together(), *map(in_order, one_by_one))
        return results

    async def _put_together(
        self,
        operations: Sequence[ParsedOperation],
        puts: Mapping[int, _Put],
        results: list[Result],
        budget: IterationBudget,
    ) -> None:
        """Execute those of these puts that the store can execute together."""
        if not puts:
            return
        first = next(iter(puts))
        try:
            self._authority.require_scope(OPERATION_SCOPES["put"])
        except Forbidden as error:  # it was counted and logged, so only of one operation
            results[first] = self._failure(error, operations[first].line)
            return
        try:
            outcomes = await self._service.put_together(list(puts.values()))
        except Exception as error:  # noqa: BLE001  # it must not stop the other operations
            outcomes = [error] * len(puts)
        for index, result in zip(puts, outcomes, strict=True):
            if isinstance(result, Exception):
                await budget.wait()  # to render an error takes long
                results[index] = self._failure(result, operations[index].line)
            elif result is not None:
                results[index] = self._success(201 if result.created else 200, result.record, is_own=result.created)

    async def _result(self, parsed: ParsedOperation, generator: GuidGenerator | None) -> Result:
        if isinstance(parsed.operation, Exception):
            return self._failure(parsed.operation, parsed.line)
        try:
            return await self._execute(parsed.operation, generator, parsed.line)
        except Exception as error:  # noqa: BLE001  # a failed operation must not stop the others
            return self._failure(error, parsed.line)

    async def _execute(self, operation: BatchOperation, generator: GuidGenerator | None, line: int | None) -> Result:
        await self._authority.confirm()  # earlier operations on the GUID may have taken long
        self._authority.require_scope(OPERATION_SCOPES[operation.op])
        preconditions = conditions.of_operation(operation)
        if operation.guid is None:
            new_record = await self._service.create(operation, preconditions, generator=generator)
            return self._success(201, new_record, is_own=self._service.may_show(new_record))
        if operation.op == "get":
            record, modified = await self._service.get(operation.guid, preconditions, operation.valid_for)
            served = ServedRecord.of(record, operation.valid_for)
            return self._read(200 if modified else 304, record, served, line)
        if operation.op == "delete":
            await self._service.delete(operation.guid, preconditions)
            result_json = to_json({"status": 204, "guid": operation.guid})
            return Result(204, result_json, result_json, is_done=True)
        if operation.op == "renew":
            return self._renewed(await self._service.renew(operation.guid, operation.renewal, preconditions))
        record, created = await self._service.put(operation.guid, operation, preconditions)
        return self._success(201 if created else 200, record, is_own=created)

    def _read(self, status: int, record: Record, served: ServedRecord, line: int | None) -> Result:
        result = self._success(status, record)._replace(is_done=False, served=served)
        if result.full is result.brief:
            return result
        return result._replace(fallback=self._problem_result(TooLarge(_NO_ROOM), line).brief)

    def _renewed(self, renewal: Renewal) -> Result:
        """Return the result of a renewal. It shows times that only readers may see."""
        result = self._success(200, renewal.record)
        if self._minimal or not self._service.may_read:
            return result
        return result._replace(full=b'%b,"renewal":%b}' % (result.brief[:-1], renewal_json(renewal)))

    def _success(self, status: int, record: Record, *, is_own: bool = False) -> Result:
        """Return the result with a record; `is_own` if it holds only what the caller wrote."""
        is_hidden = not is_own and not self._service.may_read
        # The ETag of a rehearsed update would tell whether it changes anything, so whether a guess is right.
        is_tagged = not (is_hidden and self._service.is_dry_run)
        etag_member = f',"etag":"\\"{etag_of(record)}\\""' if is_tagged else ""
        head = f'{{"status":{status},"guid":"{record.guid}"{etag_member}}}'.encode()  # nothing in it needs an escape
        if self._minimal or is_hidden or status == 304:  # noqa: PLR2004  # Not Modified
            return Result(status, head, head, is_done=True)
        record_json = self._service.full(record) if self._full else record.json_body
        return Result(status, b'%b,"record":%b}' % (head[:-1], record_json), head, is_done=True)

    def _failure(self, error: Exception, line: int | None) -> Result:
        problem = problems.problem_of(error)
        if isinstance(error, NotFound):
            hide_waits()
        if problem is problems.INTERNAL:
            _log.error("fault of the service", request_id=self._request_id, exc_info=error)
        elif (
            problem.status >= problems.INTERNAL.status
            and isinstance(error, GuidsvcError)
            and not isinstance(error, ClientDisconnected)
            and str(error) != self._logged_failure
        ):
            self._logged_failure = str(error)
            _log.warning("operation failed", request_id=self._request_id, error=str(error))
        return self._problem_result(error, line)

    def _problem_result(self, error: Exception, line: int | None) -> Result:
        problem = problems.problem_of(error)
        etag_member = {"etag": f'"{error.version}"'} if isinstance(error, PreconditionFailed) and error.version else {}
        unknown_guid = error.guid if isinstance(error, OutcomeUnknown) else None
        guid_member = {} if unknown_guid is None else {"guid": unknown_guid}
        head = to_json({"status": problem.status} | guid_member | etag_member)
        extra_members = {} if line is None else {"line": line}
        full, brief = (
            b'%b,"problem":%b}' % (head[:-1], render(error, self._request_id, extra_members, self._base))
            for render in (problems.render, problems.render_brief)
        )
        is_done = isinstance(error, OutcomeUnknown) or problem is problems.INTERNAL
        return Result(problem.status, full, brief, is_done=is_done, unknown_guid=unknown_guid)


_NO_RESULT = Result(0, b"", b"")


async def _puts_among(
    operations: Sequence[ParsedOperation], indexes: Sequence[int], budget: IterationBudget
) -> dict[int, _Put]:
    """Return the puts among these operations that may be executed together.

    Those without a GUID, or with invalid preconditions, are left out. So are those that must not revive a record, which
    have a deadline of their own.
    """
    puts: dict[int, _Put] = {}
    for index in indexes:
        operation = operations[index].operation
        if not isinstance(operation, BatchOperation) or operation.op != "put" or operation.revive is False:
            continue
        if operation.guid is not None:
            if conditions.are_in(operation):
                await budget.wait()  # they may be long
            try:
                puts[index] = operation.guid, operation, conditions.of_operation(operation)
            except InvalidRequest:
                continue  # reported when the operation is executed
    return puts
