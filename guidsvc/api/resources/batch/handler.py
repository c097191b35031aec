"""The resource `/guid:batch`: many operations in one request.

A JSON document is read and answered as a whole. Any number of lines of JSON run group by group as they arrive, and the
results are spooled, to disk if they are large. The response starts when the last line has been read, so a client that
sends everything first never blocks. After an early end, the service discards some more lines and then responds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import IDEMPOTENCY_KEY, PREFER_MINIMAL, PREFERENCE_APPLIED, REPLAYED
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.parsing import body
from guidsvc.api.parsing.idempotency_key import reject_key
from guidsvc.api.resources.batch.document_batch import DocumentBatch, operations_of, require_text
from guidsvc.api.resources.batch.executor import BatchExecutor
from guidsvc.api.resources.batch.line_batch import LineBatch
from guidsvc.api.resources.batch.operations import is_change, is_repeatable
from guidsvc.api.resources.batch.slots import GROUP_WAIT_SECONDS, BatchSlots
from guidsvc.api.resources.batch.stored_error import detached
from guidsvc.api.resources.batch.timers import LineBatchTimers, reading_limit, stop_before_end
from guidsvc.api.resources.guid import BAD_BODY, OF_KEYS
from guidsvc.domain.caller import DELETE, KEY, WRITE
from guidsvc.domain.commands import MAX_OPERATIONS, BatchQuery
from guidsvc.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    GuidsvcError,
    InvalidRequest,
    OutcomeUnknown,
    ShuttingDown,
    TooManyConnections,
)
from guidsvc.http import constants
from guidsvc.http.errors import UnsupportedMediaType
from guidsvc.runtime.background import in_thread
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.server.abort import call_on_leave
from guidsvc.server.protocol.read_throttle import DISCARD_BYTES, discard_pause
from guidsvc.telemetry.tracing import CURRENT

MAX_BYTES = 4 * 1024 * 1024
"""Maximum size of a JSON document."""
_NO_KEY = "is not accepted for a batch of lines; send the operations as application/json"
_CHUNK = 64 * 1024


class BatchHandler(Handler):
    """The handler of batches."""

    label = "guids"
    confirms_after_body = False  # a batch of lines has run by then; the executor confirms before each group instead
    _preference_headers: dict[str, str]
    _is_dry_run = False

    def initialize(self, slots: BatchSlots) -> None:
        self._slots = slots
        self._exit_stack = ExitStack()
        self._share = self._exit_stack.enter_context(self.context.temporary_space.share())
        self._error: Exception | None = None
        self._rejection: GuidsvcError | None = None  # the error if the batch ends before any line was executed
        self._line_batch: LineBatch | None = None
        self._timers = LineBatchTimers()
        self._discarded_bytes = 0
        self._is_feeding = self._must_end = False
        self._early_response: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Begin the request. A body of lines runs as it arrives, and an error is reported after the last line."""
        is_ndjson = constants.media_type(self.request.headers.get("Content-Type")) == constants.NDJSON
        if self.request.method == "POST":
            self.max_bytes = 2**60 if is_ndjson else MAX_BYTES
        authentication = super().prepare()
        if authentication is not None:
            await authentication
        if self.request.method == "POST":
            self._begin(is_ndjson=is_ndjson)

    def _begin(self, *, is_ndjson: bool) -> None:
        self._share.caller = self.queue_name
        try:
            self._executor = executor = self._create_executor()
            self.check_type(constants.JSON, constants.NDJSON)
            if is_ndjson:
                reject_key(self.request.headers, _NO_KEY)
                self._line_batch = LineBatch(executor, self._exit_stack, self._group_slot, self._share, self._take_turn)
                self.request.connection.set_body_timeout(None)  # type: ignore[union-attr]  # both servers have it
                call_on_leave(self.request.connection, self._on_leave)
                self._timers.start_deadline(self.context.batch_seconds, self._on_deadline)
                self.pipeline.in_flight.call_on_drain(
                    self, partial(self._timers.start_shutdown, on_shutdown=self._on_shutdown)
                )
                if self.session is not None:
                    self._timers.start_watch(self.confirm, self._reject)
                self._start_idle_timer()
        except (InvalidRequest, UnsupportedMediaType) as error:
            if "Expect" in self.request.headers:
                raise
            self._error, self.max_bytes = detached(error), MAX_BYTES

    @asynccontextmanager
    async def _group_slot(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Hold a slot for a group of operations in the block; Overloaded if the first group waits too long."""
        async with (
            self._slot_within(self._slots.groups, None if patient else GROUP_WAIT_SECONDS),
            self.slot(patient=patient),
        ):
            yield

    @asynccontextmanager
    async def _slot_within(self, slots: FairSemaphore, seconds: float | None) -> AsyncIterator[None]:
        """Hold one of these slots in the block; Overloaded if none is free within `seconds`."""
        self.release_slot()
        async with slots.slot_within(self.queue_name, seconds, "too many batches are in progress"):
            yield

    def _take_turn(self) -> Awaitable[None]:
        """Wait for a turn at decoding or validation on the event loop."""
        return self.pipeline.readers.take_turn(self.queue_name)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._line_batch is not None:
            return self._process_lines(self._line_batch, chunk)
        return super().data_received(chunk)

    @operation(
        "doBatch",
        "Execute many operations",
        ResponseSpec(
            200,
            "A result for each operation, in order.",
            schemas.BatchResults,
            other={constants.NDJSON: "For operations sent as lines: one result per line, as JSON."},
            headers=(PREFERENCE_APPLIED, REPLAYED),
        ),
        query=BatchQuery,
        headers=(PREFER_MINIMAL, IDEMPOTENCY_KEY),
        body=schemas.Batch,
        other={constants.NDJSON: "Any number of operations, one per line, as JSON."},
        problems=(*BAD_BODY, *OF_KEYS, OutcomeUnknown),
        required_scope=KEY,
    )
    async def post(self) -> None:
        """Execute operations, and return a result for each. Operations on the same GUID run in order.

        A failed operation does not stop the others. A JSON document has at most 1,000 operations in 4 MiB, and its
        response has at most 4 MiB: a `get` whose record does not fit returns `too-large`, a put omits the record.

        A batch of lines may have any number of operations of at most 64 KiB, which run as they arrive. An operation
        without `op` is a put, so you can write back a stream that you read with `GET /guid`. If a batch of lines ends
        early, the last line of the response gives the reason, and the first line that was not executed.
        """
        self._timers.cancel_idle()
        self._timers.cancel_batch()
        if self._early_response is not None:
            await asyncio.wait([self._early_response])  # Tornado finishes the response when this method returns
        if self._finished or self._early_response is not None:
            return
        if self._error is not None:
            raise self._error
        if self._line_batch is None:
            await self._process_document()
        else:
            await self._line_batch.end()
            await self._send_results(self._line_batch)

    async def _send_results(self, lines: LineBatch) -> None:
        if lines.is_abandoned:
            return
        self.set_header("Content-Type", constants.NDJSON)
        for name, value in self._preference_headers.items():
            self.set_header(name, value)
        try:
            async with reading_limit(self.context.batch_seconds):
                await self.stream(lines.results(), is_done=True)  # the caller was confirmed for each group
        except ClientDisconnected as error:
            self._free_data()
            self.send_error(exc_info=(type(error), error, None))

    def on_finish(self) -> None:
        super().on_finish()
        self._timers.cancel_batch()
        self._free_data()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._timers.cancel_idle()
        self._timers.cancel_batch()
        self._free_data()

    def on_grace_end(self) -> None:
        if self._line_batch is None:  # else its lines may have been executed
            super().on_grace_end()

    def _free_data(self) -> None:
        """Free the data of the request: reference cycles keep the handler in memory until garbage collection."""
        self._error = self._rejection = None
        if self._line_batch is not None:
            self._line_batch.abandon()
        self._exit_stack.close()

    def _create_executor(self) -> BatchExecutor:
        query = self.read_query(BatchQuery)
        service = self.context.service.acting_for(self.caller)
        if query.validate_only == "true":
            self._is_dry_run = True
            service = self._exit_stack.enter_context(service.dry_run(self._share))
        minimal = self.preferences().get("return") == "minimal"
        self._preference_headers = {"Preference-Applied": "return=minimal"} if minimal else {}
        is_full, base = query.view is not None, self.context.public_url
        return BatchExecutor(service, self, self.request_id, full=is_full, minimal=minimal, base=base)

    async def _process_document(self) -> None:
        """Run a document in a slot: decoded, it takes many times its size, and its results take up to 4 MiB."""
        admission = self.context.admission
        slots, seconds = self._slots.documents, admission.budget_seconds
        if len(self.received()) <= _CHUNK:
            slots, seconds = self._slots.small_documents, admission.queue_seconds
        async with self._slot_within(slots, seconds):
            if self._is_disconnected:
                raise ClientDisconnected("its client has gone")
            await self._execute_document()

    async def _execute_document(self) -> None:
        await self.confirm()
        values = operations_of(await self._decode(require_text(self.received())))
        batch = DocumentBatch(values, self._executor, self._group_slot, self._take_turn, self._preference_headers)
        self.pipeline.in_flight.call_on_drain(self, partial(stop_before_end, stop=batch.stop))
        await self.send_idempotent(
            batch.perform,
            repeatable=all(map(is_repeatable, values)),
            parted=batch,
            needs_receipt=self._needs_receipt(values),
        )

    def _needs_receipt(self, values: list[Any]) -> bool:
        """Whether the batch may change something. A batch that only reads is repeatable without a receipt."""
        may = self.caller.may(WRITE) or self.caller.may(DELETE)
        return may and not self._is_dry_run and any(map(is_change, values))

    async def _decode(self, text: bytes) -> Any:
        if len(text) > _CHUNK:  # in a thread, which releases the GIL between operations
            return await in_thread(body.decode_operations, text, MAX_OPERATIONS)
        if self.has_large_body:
            self.release_slot()
            await self._take_turn()
        return body.decode(text)

    async def _process_lines(self, lines: LineBatch, chunk: bytes) -> None:
        CURRENT.set(self.trace)  # the server calls this in another task
        self._timers.cancel_idle()
        if self._finished:
            return
        if self._early_response is not None:
            await self._discard(len(chunk))
            return
        if self._error is None and not lines.has_ended:
            await self._feed(lines, chunk)
        else:
            self._discarded_bytes += len(chunk)
        if self._must_end or self._discarded_bytes > DISCARD_BYTES:
            self._begin_early_response(lines)
        elif not lines.is_abandoned:
            self._start_idle_timer()

    async def _discard(self, size: int) -> None:
        """Discard what the client sends after the beginning of its early response: at a low rate beyond a bound."""
        self._discarded_bytes += size
        if pause := discard_pause(self._discarded_bytes, size):
            await asyncio.sleep(pause)

    async def _feed(self, lines: LineBatch, chunk: bytes) -> None:
        self._is_feeding = True
        try:
            await lines.feed(chunk)
            await asyncio.sleep(0)  # let other requests run, whatever this client sends
        except Exception as error:  # noqa: BLE001  # `post` raises it when the client has sent everything
            self._error = detached(error) if isinstance(error, GuidsvcError) else error  # others are logged in full
        finally:
            self._is_feeding = False

    def _begin_early_response(self, lines: LineBatch) -> None:
        """Begin the response in a task: its client may read it only once it has sent everything, which is discarded."""
        self._early_response = asyncio.ensure_future(self._respond_early(lines))

    async def _respond_early(self, lines: LineBatch) -> None:
        """Respond to a client that has not sent all of its lines, and close the connection."""
        self._timers.cancel_batch()
        self.close_after()
        self._error = self._error or (None if lines.has_begun else self._rejection)
        if self._error is not None:
            self.send_error(exc_info=(type(self._error), self._error, None))
        else:
            await self._send_results(lines)

    def _on_deadline(self) -> None:
        """End a batch of lines at its time limit."""
        self._end_early(DeadlineExceeded("the batch exceeded its time limit"))

    def _reject(self, error: GuidsvcError) -> None:
        """End a batch of lines early; reject the whole request if no line was executed."""
        self._rejection = detached(error)
        self._end_early(error)

    def _on_leave(self) -> bool:
        """End a batch of lines, unless it is complete. Return whether no line was executed."""
        if not self._timers.is_receiving or self._line_batch is None:
            return False
        self._reject(TooManyConnections("the connection of the batch gives way to those of other clients"))
        return not self._is_feeding and not self._line_batch.has_begun

    def _on_shutdown(self) -> None:
        """End a batch of lines at the shutdown of the service."""
        self._reject(ShuttingDown("the service is shutting down"))

    def _end_early(self, error: GuidsvcError) -> None:
        self._must_end = True
        if self._line_batch is not None and not self._finished:
            self._line_batch.stop(error)
            if not self._is_feeding:
                self._timers.cancel_idle()
                self._begin_early_response(self._line_batch)

    def _start_idle_timer(self) -> None:
        self._timers.start_idle(self.request.connection.close)  # type: ignore[union-attr]  # both servers have it
