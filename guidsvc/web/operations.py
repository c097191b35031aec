"""The operations of a batch: each is done as a request of its own would be, and answered by a result of its own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from pydantic_core import to_json

from guidsvc import errand
from guidsvc.access import DELETE, READ, WRITE, Needs, Scope
from guidsvc.bodies import Operation
from guidsvc.errors import Abandoned, GuidsvcError, InvalidRequest, PreconditionFailed
from guidsvc.idempotency import Draws
from guidsvc.models import Record
from guidsvc.rules import ClaimedDraw, tag_of
from guidsvc.service import GuidService
from guidsvc.web import body, conditions, problems
from guidsvc.web.lines import Line
from guidsvc.web.problems import TooLarge

GROUP = 128
"""So many operations are done side by side: enough to share a commit, and not so many that other requests wait long."""

_NEEDS: dict[str, Scope] = {"get": READ, "put": WRITE, "delete": DELETE}

_log = structlog.get_logger(__name__)


class Asked(NamedTuple):
    """What a client asked for: an operation, or what is wrong with it; and the line that it stood in, if any."""

    operation: Operation | Exception
    line: int | None = None


def read_value(value: object) -> Asked:
    """Read an operation from a JSON value."""
    try:
        return Asked(body.validate(value, Operation, {}))
    except InvalidRequest as error:
        return Asked(error)


def is_repeatable(value: object) -> bool:
    """Whether an operation does no more than to create under a GUID that is drawn, or to read."""
    return isinstance(value, dict) and (value.get("op") == "get" or "guid" not in value)


def read_line(line: Line) -> Asked:
    """Read an operation from a line of JSON."""
    if line.text is None:
        return Asked(
            TooLarge(f"Line {line.number} is too long: a line is at most {body.MAX_BYTES} bytes."), line.number
        )
    try:
        return Asked(body.parse(line.text, Operation, {}), line.number)
    except InvalidRequest as error:
        return Asked(error, line.number)


class Performer:
    """Does operations for one request; `full` and `minimal` say how much of a record is in a result.

    `demand` raises Forbidden, unless who asks may do what takes that.
    """

    def __init__(
        self, service: GuidService, demand: Callable[[Needs], None], request_id: str, *, full: bool, minimal: bool
    ) -> None:
        self._service = service
        self._demand = demand
        self._request_id = request_id
        self._full = full
        self._minimal = minimal

    async def perform(self, asked: Sequence[Asked], draws: Draws | None = None) -> list[bytes]:
        """Return the result of each operation, as JSON. Those of one GUID are done in order, others side by side."""
        with errand.kept():  # an operation that has been done has its result, whatever becomes of others
            return await self._perform(asked, draws)

    async def _perform(self, asked: Sequence[Asked], draws: Draws | None) -> list[bytes]:
        results = [b""] * len(asked)
        by_guid: dict[object, list[int]] = {}
        for place, (operation, _) in enumerate(asked):
            by_guid.setdefault(getattr(operation, "guid", None) or place, []).append(place)

        async def in_order(places: list[int]) -> None:
            for place in places:
                results[place] = await self._result(asked[place], draws and draws(place))

        await asyncio.gather(*map(in_order, by_guid.values()))
        return results

    async def _result(self, asked: Asked, draw: ClaimedDraw | None) -> bytes:
        try:
            if isinstance(asked.operation, Exception):
                raise asked.operation
            return await self._done(asked.operation, draw)
        except Exception as error:  # noqa: BLE001  # one's failure does not stop the others
            return self._failed(error, asked.line)

    async def _done(self, operation: Operation, draw: ClaimedDraw | None) -> bytes:
        self._demand(_NEEDS[operation.op])
        wanted = conditions.of_operation(operation)
        if operation.guid is None:
            return self._rendered(201, await self._service.create(operation, wanted, draw=draw))
        if operation.op == "get":
            record, modified = await self._service.get(operation.guid, wanted)
            return self._rendered(200 if modified else 304, record)
        if operation.op == "delete":
            await self._service.delete(operation.guid, wanted)
            return to_json({"status": 204, "guid": operation.guid})
        record, created = await self._service.put(operation.guid, operation, wanted)
        return self._rendered(201 if created else 200, record)

    def _rendered(self, status: int, record: Record) -> bytes:
        head = to_json({"status": status, "guid": record.guid, "etag": f'"{tag_of(record)}"'})
        if self._minimal or status == 304:  # noqa: PLR2004  # Not Modified
            return head
        wire = self._service.full(record) if self._full else record.wire
        return b'%b,"record":%b}' % (head[:-1], wire)

    def _failed(self, error: Exception, line: int | None) -> bytes:
        problem = problems.problem_of(error)
        if problem is problems.INTERNAL:
            _log.error("fault of the service", request_id=self._request_id, exc_info=error)
        elif (
            problem.status >= problems.INTERNAL.status
            and isinstance(error, GuidsvcError)
            and not isinstance(error, Abandoned)
        ):
            _log.warning("operation failed", request_id=self._request_id, error=str(error))
        tag = {"etag": f'"{error.version}"'} if isinstance(error, PreconditionFailed) and error.version else {}
        head = to_json({"status": problem.status} | tag)
        where = {} if line is None else {"line": line}
        return b'%b,"problem":%b}' % (head[:-1], problems.render(error, self._request_id, where))
