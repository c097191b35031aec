"""Many operations in one request: `/guid:batch`.

As JSON they come and go as one document. As lines of JSON there may be any number of them: they are done as they come
in, a group at a time, and the results are spooled, to disk where they grow large. The answer begins when the last line
has been read, so a client that sends everything before it reads anything never blocks.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import Any

from tornado.httputil import HTTPHeaders

from guidsvc.access import KEY
from guidsvc.bodies import MAX_OPERATIONS, BatchQuery
from guidsvc.errors import Fault, InvalidRequest, OutcomeUnknown
from guidsvc.idempotency import Draws, Idempotency, Reply
from guidsvc.rules import ClaimedDraw
from guidsvc.service import GuidService
from guidsvc.tracing import CURRENT
from guidsvc.web import answers, body
from guidsvc.web.admission import Place
from guidsvc.web.base import Handler
from guidsvc.web.described import Answer, operation
from guidsvc.web.guids import BAD_BODY, OF_KEYS
from guidsvc.web.headers import IDEMPOTENCY_KEY, PREFER_MINIMAL, PREFERENCE_APPLIED, REPLAYED
from guidsvc.web.lines import Line, Lines
from guidsvc.web.operations import GROUP, Performer, is_repeatable, read_line, read_value
from guidsvc.web.problems import UnsupportedMediaType

MAX_BYTES = 4 * 1024 * 1024
"""The size of a JSON document."""
GROUP_BYTES = 1024 * 1024
"""Lines are done together up to a group, or to so many bytes."""
SPOOL_BYTES = 1024 * 1024
"""Results beyond this go to disk."""
PAUSE_SECONDS = 30.0
"""A client that sends nothing for so long in the middle of its lines is given up."""
_CHUNK = 64 * 1024


class BatchHandler(Handler):
    """Batches."""

    label = "guids"
    _performer: Performer
    _applied: dict[str, str]

    def initialize(self, service: GuidService, idempotency: Idempotency) -> None:
        self._service = service
        self._idempotency = idempotency
        self._open = ExitStack()
        self._fault: Exception | None = None
        self._lines: _LineBatch | None = None
        self._alarm: asyncio.TimerHandle | None = None

    async def prepare(self) -> None:
        """Begin a request: where the body is lines, they are done as they come. What is wrong is told at their end."""
        in_lines = body.media_type(self.request.headers.get("Content-Type")) == body.NDJSON
        if self.request.method == "POST":
            self.max_bytes = 2**60 if in_lines else MAX_BYTES
        entering = super().prepare()
        if entering is not None:
            await entering
        if self.request.method == "POST":
            self._begin(in_lines=in_lines)

    def _begin(self, *, in_lines: bool) -> None:
        try:
            self._performer = performer = self._make_performer()
            self.check_type(body.JSON, body.NDJSON)
            if in_lines:
                _refuse_key(self.request.headers)
                self._lines = _LineBatch(performer, self._open, self.place)
                self.request.connection.set_body_timeout(None)  # type: ignore[union-attr]  # as HTTP1Connection has it
                self._expect_more()
        except (InvalidRequest, UnsupportedMediaType) as error:
            if "Expect" in self.request.headers:
                raise
            self._fault, self.max_bytes = error, MAX_BYTES

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._lines is not None:
            return self._do_lines(self._lines, chunk)
        return super().data_received(chunk)

    @operation(
        "doBatch",
        "Do many operations",
        Answer(
            200,
            "A result for each operation, in order.",
            answers.Results,
            other={body.NDJSON: "A result a line, as JSON, where the operations are lines."},
            headers=(PREFERENCE_APPLIED, REPLAYED),
        ),
        query=BatchQuery,
        headers=(PREFER_MINIMAL, IDEMPOTENCY_KEY),
        body=answers.Batch,
        other={body.NDJSON: "An operation a line, as JSON; any number of them."},
        problems=(*BAD_BODY, *OF_KEYS, OutcomeUnknown),
        needs=KEY,
    )
    async def post(self) -> None:
        """Do all the operations, in order where they are of one GUID; each has a result, whatever becomes of others.

        As JSON there are at most 1,000 in 4 MiB. As lines there may be any number, of at most 64 KiB each; they are
        done as they come. What a list streams out can be put back so: without `op` a line is a put.
        """
        self._expect_no_more()
        if self._fault is not None:
            raise self._fault
        if self._lines is None:
            await self._do_document()
        else:
            await self._lines.end()
            if self._lines.abandoned:
                return
            self.set_header("Content-Type", body.NDJSON)
            for name, value in self._applied.items():
                self.set_header(name, value)
            await self.stream(self._lines.results())

    def on_finish(self) -> None:
        super().on_finish()
        self._open.close()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._expect_no_more()
        if self._lines is not None:
            self._lines.abandon()
        self._open.close()

    def _make_performer(self) -> Performer:
        query = self.read_query(BatchQuery)
        service = self._service.acting_for(self.caller)
        if query.validate_only == "true":
            service = self._open.enter_context(service.rehearsing())
        minimal = self.preferences().get("return") == "minimal"
        self._applied = {"Preference-Applied": "return=minimal"} if minimal else {}
        return Performer(service, self.demand, self.request_id, full=query.view is not None, minimal=minimal)

    async def _do_document(self) -> None:
        values = await self._read_document()

        async def perform(draws: Draws | None) -> Reply:
            results: list[bytes] = []
            for start in range(0, len(values), GROUP):  # read group by group too: others are served in between
                asked = [read_value(value) for value in values[start : start + GROUP]]
                here = draws and partial(_from, draws, start)
                async with self.place(patient=start > 0):
                    results += await self._performer.perform(asked, here)
            return Reply(200, self._applied, f'{{"results":[{b",".join(results).decode()}]}}')

        await self.send_once(self._idempotency, perform, repeatable=all(map(is_repeatable, values)))

    async def _read_document(self) -> list[Any]:
        text = self.received()
        # A large document is read in a thread, which gives way to the event loop now and then.
        large = len(text) > _CHUNK
        document = await asyncio.to_thread(body.decode_operations, text, MAX_OPERATIONS) if large else body.decode(text)
        if not isinstance(document, dict) or not isinstance(document.get("operations"), list):
            raise InvalidRequest(Fault("/operations", "must be a list, in a JSON object"))
        if surplus := list(islice((name for name in document if name != "operations"), body.MAX_MEMBERS)):
            raise InvalidRequest(*(Fault(body.pointer(name), "is not a member that is known here") for name in surplus))
        if len(document["operations"]) > MAX_OPERATIONS:
            raise InvalidRequest(
                Fault("/operations", f"are more than {MAX_OPERATIONS}: send them as lines, as {body.NDJSON}")
            )
        operations: list[Any] = document["operations"]
        return operations

    async def _do_lines(self, lines: "_LineBatch", chunk: bytes) -> None:
        CURRENT.set(self.trace)  # this is a task of its own
        self._expect_no_more()
        if self._fault is None:
            try:
                await lines.feed(chunk)
                await asyncio.sleep(0)  # others are served in between, whatever this client sends
            except Exception as error:  # noqa: BLE001  # it is told, by `post`, when the client has sent all
                self._fault = error
        if not lines.abandoned:
            self._expect_more()

    def _expect_more(self) -> None:
        connection = self.request.connection
        self._alarm = asyncio.get_running_loop().call_later(PAUSE_SECONDS, connection.close)  # type: ignore[union-attr]

    def _expect_no_more(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()


def _from(draws: Draws, start: int, place: int) -> ClaimedDraw:
    """Draw for a place in the group that begins there."""
    return draws(start + place)


def _refuse_key(headers: HTTPHeaders) -> None:
    if IDEMPOTENCY_KEY.name in headers:
        detail = "goes with a batch in application/json: of lines there may be more than can be remembered"
        raise InvalidRequest(Fault("", detail, header=IDEMPOTENCY_KEY.name))


class _LineBatch:
    """Lines that are done as they come, and their results."""

    def __init__(self, performer: Performer, opened: ExitStack, place: Callable[..., Place]) -> None:
        self._performer = performer
        self._place = place
        self._begun = False
        self._lines = Lines(body.MAX_BYTES)
        self._waiting: list[Line] = []
        self._waiting_bytes = 0
        self._spool = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  # the request closes it
        opened.callback(self._spool.close)
        self.abandoned = False

    async def feed(self, chunk: bytes) -> None:
        """Take a part of the stream; return when there is room for more."""
        for line in self._lines.feed(chunk):
            await self._add(line)

    async def end(self) -> None:
        """Do what is left."""
        for line in self._lines.end():
            await self._add(line)
        await self._do_waiting()

    async def results(self) -> AsyncGenerator[bytes]:
        """Yield the results, a line each, some at a time."""
        self._spool.seek(0)
        while chunk := self._spool.read(_CHUNK):
            yield chunk

    def abandon(self) -> None:
        """Do no more: nobody waits for the results."""
        self.abandoned = True

    async def _add(self, line: Line) -> None:
        self._waiting.append(line)
        self._waiting_bytes += len(line.text or b"")
        if len(self._waiting) >= GROUP or self._waiting_bytes >= GROUP_BYTES:
            await self._do_waiting()

    async def _do_waiting(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if self.abandoned:
            return
        async with self._place(patient=self._begun):
            self._begun = True
            results = await self._performer.perform([read_line(line) for line in waiting])
        if not self.abandoned:
            self._keep(results)

    def _keep(self, results: list[bytes]) -> None:
        try:
            self._spool.write(b"".join(result + b"\n" for result in results))
        except OSError as error:
            raise OutcomeUnknown(f"operations were done, and their results cannot be kept: {error}") from error
