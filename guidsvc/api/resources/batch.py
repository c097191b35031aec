"""Many operations in one request: `/guid:batch`.

As JSON they come and go as one document. As lines of JSON there may be any number of them: they are done as they come
in, a group at a time, and the results are spooled, to disk where they grow large. The answer begins when the last line
has been read, so a client that sends everything before it reads anything never blocks. A batch of lines that ends early
reads and drops some more of them, and then answers all the same.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from itertools import islice
from typing import Any

from tornado.httputil import HTTPHeaders

from guidsvc.api.base.handler import Handler
from guidsvc.api.base.input import DISCARD_BYTES
from guidsvc.api.contract import schemas as answers
from guidsvc.api.contract.headers import IDEMPOTENCY_KEY, PREFER_MINIMAL, PREFERENCE_APPLIED, REPLAYED
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.parsing import body
from guidsvc.api.resources.batch_executor import BatchExecutor, is_change, is_repeatable
from guidsvc.api.resources.batch_slots import BatchPlaces
from guidsvc.api.resources.document_batch import DocumentBatch
from guidsvc.api.resources.guid import BAD_BODY, OF_KEYS
from guidsvc.api.resources.line_batch import LineBatch
from guidsvc.domain.caller import DELETE, KEY, WRITE
from guidsvc.domain.commands import MAX_OPERATIONS, BatchQuery
from guidsvc.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    GuidsvcError,
    InvalidField,
    InvalidRequest,
    OutcomeUnknown,
    detached,
)
from guidsvc.http import constants
from guidsvc.http.errors import UnsupportedMediaType
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.telemetry.tracing import CURRENT

MAX_BYTES = 4 * 1024 * 1024
"""The size of a JSON document."""
PAUSE_SECONDS = 30.0
"""A client that sends nothing for so long in the middle of its lines is given up."""
GROUP_WAIT_SECONDS = 1.0
"""For which the first group of a batch waits for those of others."""
_CHUNK = 64 * 1024
_SMALL = 4 * 1024
"""A smaller document is decoded at once."""


class BatchHandler(Handler):
    """Batches."""

    label = "guids"
    confirms_after_body = False  # a batch of lines has been done by then; it confirms before each group
    _performer: BatchExecutor
    _applied: dict[str, str]
    _is_rehearsal = False

    def initialize(self, places: BatchPlaces) -> None:
        self._places = places
        self._open = ExitStack()
        self._share = self._open.enter_context(self.context.temporary_space.share())
        self._fault: Exception | None = None
        self._lines: LineBatch | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._discarded = 0
        self._is_feeding = self._is_overdue = False
        self._answering: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Begin a request: where the body is lines, they are done as they come. What is wrong is told at their end."""
        in_lines = constants.media_type(self.request.headers.get("Content-Type")) == constants.NDJSON
        if self.request.method == "POST":
            self.max_bytes = 2**60 if in_lines else MAX_BYTES
        entering = super().prepare()
        if entering is not None:
            await entering
        if self.request.method == "POST":
            self._begin(in_lines=in_lines)

    def _begin(self, *, in_lines: bool) -> None:
        if self.login is not None:
            self._share.owner = self.caller.owner
        try:
            self._performer = performer = self._make_performer()
            self.check_type(constants.JSON, constants.NDJSON)
            if in_lines:
                _refuse_key(self.request.headers)
                self._lines = LineBatch(
                    performer, self._open, self._group_place, self.confirm, self._share, self._reader_place
                )
                self.request.connection.set_body_timeout(None)  # type: ignore[union-attr]  # as HTTP1Connection has it
                self._deadline = asyncio.get_running_loop().call_later(self.context.batch_seconds, self._overdue)
                self._expect_more()
        except (InvalidRequest, UnsupportedMediaType) as error:
            if "Expect" in self.request.headers:
                raise
            self._fault, self.max_bytes = detached(error), MAX_BYTES

    @asynccontextmanager
    async def _group_place(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Have a place for a group of operations, inside; Overloaded if it is the first and has to wait too long."""
        async with (
            self._place_within(self._places.groups, None if patient else GROUP_WAIT_SECONDS),
            self.slot(patient=patient),
        ):
            yield

    @asynccontextmanager
    async def _place_within(self, places: FairSemaphore, seconds: float | None) -> AsyncIterator[None]:
        """Have one of these places, inside; Overloaded if there is none within so many seconds."""
        self.release_slot()
        async with places.place_within(self.queue_name, seconds, "too many batches are being done"):
            yield

    def _reader_place(self) -> AbstractAsyncContextManager[None]:
        """Return a place among what is read on the event loop, of all batches."""
        return self._places.readers.place(self.queue_name)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._lines is not None:
            return self._do_lines(self._lines, chunk)
        return super().data_received(chunk)

    @operation(
        "doBatch",
        "Do many operations",
        ResponseSpec(
            200,
            "A result for each operation, in order.",
            answers.Results,
            other={constants.NDJSON: "A result a line, as JSON, where the operations are lines."},
            headers=(PREFERENCE_APPLIED, REPLAYED),
        ),
        query=BatchQuery,
        headers=(PREFER_MINIMAL, IDEMPOTENCY_KEY),
        body=answers.Batch,
        other={constants.NDJSON: "An operation a line, as JSON; any number of them."},
        problems=(*BAD_BODY, *OF_KEYS, OutcomeUnknown),
        required_scope=KEY,
    )
    async def post(self) -> None:
        """Do all the operations, in order where they are of one GUID; each has a result, whatever becomes of others.

        As JSON there are at most 1,000 in 4 MiB, and their results have at most 4 MiB: a `get` whose record has no
        room is `too-large`, a put is answered without it. As lines there may be any number, of at most 64 KiB each;
        they are done as they come. What a list streams out can be put back so: without `op` a line is a put. A batch
        of lines that ends early has a last line that says why, and which line was the first that was not done.
        """
        self._expect_no_more()
        self._end_clock()
        if self._finished or self._answering is not None:
            return
        if self._fault is not None:
            raise self._fault
        if self._lines is None:
            await self._take_document()
        else:
            await self._lines.end()
            await self._answer_lines(self._lines)

    async def _answer_lines(self, lines: LineBatch) -> None:
        if lines.abandoned:
            return
        self.set_header("Content-Type", constants.NDJSON)
        for name, value in self._applied.items():
            self.set_header(name, value)
        await self.stream(lines.results(), is_confirmed=False)  # it was read while the caller might

    def on_finish(self) -> None:
        super().on_finish()
        self._end_clock()
        self._forget()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._expect_no_more()
        self._end_clock()
        self._forget()

    def _forget(self) -> None:
        """Drop what belongs to the request: cycles of references keep the handler until the garbage collector runs."""
        self._fault = None
        if self._lines is not None:
            self._lines.abandon()
        self._open.close()

    def _make_performer(self) -> BatchExecutor:
        query = self.read_query(BatchQuery)
        service = self.context.service.acting_for(self.caller)
        if query.validate_only == "true":
            self._is_rehearsal = True
            service = self._open.enter_context(service.dry_run(self._share))
        minimal = self.preferences().get("return") == "minimal"
        self._applied = {"Preference-Applied": "return=minimal"} if minimal else {}
        return BatchExecutor(service, self.require_scope, self.request_id, full=query.view is not None, minimal=minimal)

    async def _take_document(self) -> None:
        """Do a document in a place: decoded it takes many times its size, and its results up to 4 MiB."""
        admission = self.context.admission
        is_small = len(self.received()) <= _CHUNK
        async with (
            self._place_within(self._places.small_documents, admission.queue_seconds)
            if is_small
            else self._place_within(self._places.documents, admission.budget_seconds)
        ):
            if self._gone:
                raise ClientDisconnected("its client has gone")
            await self._do_document()

    async def _do_document(self) -> None:
        await self.confirm()
        values = await self._read_document()
        batch = DocumentBatch(values, self._performer, self._group_place, self.confirm, self._applied)
        await self.send_idempotent(
            batch.perform,
            repeatable=all(map(is_repeatable, values)),
            brief=batch.brief,
            needs_receipt=self._needs_receipt(values),
        )

    def _needs_receipt(self, values: list[Any]) -> bool:
        """Whether it could change anything: what only reads can be done again without one."""
        may = self.caller.may(WRITE) or self.caller.may(DELETE)
        return may and not self._is_rehearsal and any(map(is_change, values))

    async def _read_document(self) -> list[Any]:
        document = await self._decode(self.received())
        if not isinstance(document, dict) or not isinstance(document.get("operations"), list):
            raise InvalidRequest(InvalidField("/operations", "must be a list, in a JSON object"))
        if surplus := list(islice((name for name in document if name != "operations"), body.MAX_MEMBERS)):
            raise InvalidRequest(
                *(InvalidField(body.pointer(name), "is not a member that is known here") for name in surplus)
            )
        if len(document["operations"]) > MAX_OPERATIONS:
            raise InvalidRequest(
                InvalidField(
                    "/operations", f"are more than {MAX_OPERATIONS}: send them as lines, as {constants.NDJSON}"
                )
            )
        operations: list[Any] = document["operations"]
        return operations

    async def _decode(self, text: bytes) -> Any:
        if len(text) > _CHUNK:  # in a thread, which gives way to the event loop now and then
            return await asyncio.to_thread(body.decode_operations, text, MAX_OPERATIONS)
        if len(text) <= _SMALL:
            return body.decode(text)
        self.release_slot()
        async with self._reader_place():
            document = body.decode(text)
            await asyncio.sleep(0)  # few are decoded in one turn of the event loop
        return document

    async def _do_lines(self, lines: LineBatch, chunk: bytes) -> None:
        CURRENT.set(self.trace)  # this is a task of its own
        self._expect_no_more()
        if self._finished or self._answering is not None:
            return
        if self._fault is None and not lines.has_ended:
            await self._feed(lines, chunk)
        else:
            self._discarded += len(chunk)
        if self._is_overdue or self._discarded > DISCARD_BYTES:
            await self._answer_early(lines)
        elif not lines.abandoned:
            self._expect_more()

    async def _feed(self, lines: LineBatch, chunk: bytes) -> None:
        self._is_feeding = True
        try:
            await lines.feed(chunk)
            await asyncio.sleep(0)  # others are served in between, whatever this client sends
        except Exception as error:  # noqa: BLE001  # it is told, by `post`, when the client has sent all
            self._fault = detached(error) if isinstance(error, GuidsvcError) else error  # others are logged in full
        finally:
            self._is_feeding = False

    async def _answer_early(self, lines: LineBatch) -> None:
        """Answer a client that has not sent all of its lines; the connection ends with that."""
        self._end_clock()
        self._answering = asyncio.current_task()
        if self._fault is not None:
            self.send_error(exc_info=(type(self._fault), self._fault, None))
        else:
            await self._answer_lines(lines)

    def _overdue(self) -> None:
        """End a batch of lines that has had its time."""
        self._is_overdue = True
        if self._lines is not None and not self._finished:
            self._lines.stop(DeadlineExceeded("the batch took longer than a batch may"))
            if not self._is_feeding:
                self._expect_no_more()
                self._answering = asyncio.ensure_future(self._answer_early(self._lines))

    def _end_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _expect_more(self) -> None:
        connection = self.request.connection
        self._alarm = asyncio.get_running_loop().call_later(PAUSE_SECONDS, connection.close)  # type: ignore[union-attr]

    def _expect_no_more(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()


def _refuse_key(headers: HTTPHeaders) -> None:
    if IDEMPOTENCY_KEY.name in headers:
        detail = "goes with a batch in application/json: of lines there may be more than can be remembered"
        raise InvalidRequest(InvalidField("", detail, header=IDEMPOTENCY_KEY.name))
