"""A batch of lines: runs operations group by group as they arrive, and spools the results to a temporary file.

The bytes and the file of the spool count against the temporary space of the request. A batch ends early if that space
is full, its time limit has passed, too many lines are not operations, or the caller has lost its authority. The last
line of the response then gives the reason, and the first line that was not executed.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO

import structlog
from pydantic_core import to_json

from guidsvc.api.contract import problems
from guidsvc.api.parsing import body
from guidsvc.api.resources.batch.executor import BRIEF_BYTES, GROUP, BatchExecutor, Result
from guidsvc.api.resources.batch.operations import ParsedOperation, read_line
from guidsvc.api.resources.batch.served_record import MARK_BYTES, ServedRecord, replace_served, without_marks
from guidsvc.api.resources.batch.stored_error import detached
from guidsvc.errors import GuidsvcError, InvalidField, InvalidRequest, Overloaded, TemporaryFileUnavailable
from guidsvc.http.ndjson import Line, NdjsonSplitter
from guidsvc.runtime.temporary_space import MEMORY_BYTES, Share

GROUP_BYTES = 256 * 1024
"""A group runs when it has this many bytes, or GROUP lines."""
WHOLE_PROBLEMS = 100
"""Number of failures that are reported with their problem. Later ones have only status and line."""
MAX_UNREADABLE = 1_000
"""Number of lines that are not operations after which a batch ends."""
READ_AT_ONCE, READ_BYTES = 32, 32 * 1024
"""Lines, or bytes, of a group that are parsed in one turn on the event loop."""
_CHUNK = 64 * 1024

_log = structlog.get_logger(__name__)


class LineBatch:
    """Runs lines as they arrive and collects their results.

    `take_turn` waits for a turn at parsing lines.
    """

    def __init__(
        self,
        executor: BatchExecutor,
        exit_stack: ExitStack,
        slot: Callable[..., AbstractAsyncContextManager[object]],
        share: Share,
        take_turn: Callable[[], Awaitable[None]],
    ) -> None:
        self._executor = executor
        self._slot = slot
        self._share = share
        self._take_turn = take_turn
        self.has_begun = False
        """Whether lines were executed."""
        self._splitter = NdjsonSplitter(body.MAX_BYTES)
        self._queued: list[Line] = []
        self._queued_bytes = 0
        self._exit_stack = exit_stack
        self._spool: IO[bytes] = BytesIO()
        self._spool_bytes = 0  # up to the last complete result: a failed write may leave a part of one behind it
        self._rest = b""  # the incomplete last line of what was read from the spool
        self._fails_from: int | None = None  # the earliest time at which a read in the spool may fail
        self._unwritten = b""  # results that could not be written to the spool
        self._has_file = self._is_on_disk = False
        self._failures = self._unreadable = 0
        self._end_reason: GuidsvcError | None = None
        self._first_unexecuted: int | None = None
        self.is_abandoned = False

    @property
    def has_ended(self) -> bool:
        """Whether the batch has ended early and runs no more lines."""
        return self._end_reason is not None

    def stop(self, error: GuidsvcError) -> None:
        """End the batch early, for this reason."""
        self._end_reason = self._end_reason or detached(error)

    async def feed(self, chunk: bytes) -> None:
        """Process a chunk of the stream; return when there is space for more."""
        for line in self._splitter.feed(chunk):
            if self.is_abandoned:
                return
            if self._end_reason is not None:
                self._first_unexecuted = self._first_unexecuted or line.number
                return
            await self._add(line)
        if self.is_abandoned:
            return
        try:
            self._share.hold(self._queued_bytes + self._splitter.held_bytes)
        except Overloaded as error:
            if not self.has_begun:  # nothing was executed: reject the whole request
                raise
            self.stop(error)

    async def end(self) -> None:
        """Run the remaining lines."""
        if self._end_reason is not None:
            return
        for line in self._splitter.end():
            await self._add(line)
        await self._execute_queued()

    async def results(self) -> AsyncGenerator[bytes]:
        """Yield the results in chunks, one result per line; after an early end, the last line gives the reason."""
        self._spool.seek(0)
        while lines := self._read_spool():
            yield self._current(lines)
        if self._unwritten:
            yield self._current(self._unwritten)
        if self._end_reason is not None:
            yield self._executor.reject(self._end_reason, self._first_unexecuted_line()).full + b"\n"

    def _read_spool(self) -> bytes:
        """Return the next whole lines of the spool; none at its end."""
        while chunk := self._spool.read(min(_CHUNK, self._spool_bytes - self._spool.tell())):
            lines, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
            if newline:
                return lines + newline
        return b""

    def _current(self, lines: bytes) -> bytes:
        """Return spooled lines as they are sent, with problems instead of reads that would fail by now."""
        if self._fails_from is None:
            return lines
        if not self._executor.has_come(self._fails_from):
            return without_marks(lines)
        return replace_served(lines, self._replace_if_outdated)

    def _replace_if_outdated(self, served: ServedRecord, number: int) -> bytes | None:
        error = self._executor.error_of(served)
        if error is None:
            return None
        if self._is_brief_failure():
            return to_json({"status": problems.problem_of(error).status, "line": number})
        return self._executor.reject(error, number).full

    def _is_brief_failure(self) -> bool:
        """Count a failure; return whether its result has only status and line, because many were reported."""
        self._failures += 1
        return self._failures > WHOLE_PROBLEMS

    def _first_unexecuted_line(self) -> int:
        """Return the number of the first line that was not executed."""
        if self._first_unexecuted is not None:
            return self._first_unexecuted
        return self._queued[0].number if self._queued else self._splitter.number

    def abandon(self) -> None:
        """Stop and free the results, as the client has disconnected. The handler may stay in memory much longer."""
        self.is_abandoned = True
        self._end_reason, self._queued, self._spool = None, [], BytesIO()

    async def _add(self, line: Line) -> None:
        self._queued.append(line)
        self._queued_bytes += len(line.text or b"")
        if len(self._queued) >= GROUP or self._queued_bytes >= GROUP_BYTES:
            await self._execute_queued()

    async def _execute_queued(self) -> None:
        group, self._queued, self._queued_bytes = self._queued, [], 0
        if self.is_abandoned or not group:
            return
        if self._end_reason is None:
            try:
                await self._execute_group(group)
            except GuidsvcError as error:
                if not self.has_begun:  # nothing was executed: reject the whole request
                    raise
                self._first_unexecuted = group[0].number
                self.stop(error)
        elif self._first_unexecuted is None:
            self._first_unexecuted = group[0].number

    async def _execute_group(self, group: list[Line]) -> None:
        self._first_unexecuted = group[0].number
        self._share.take(len(group) * BRIEF_BYTES)
        self._reserve(len(group) * BRIEF_BYTES)
        async with self._slot(patient=self.has_begun):
            operations = await self._read(group)
            results = [] if self.is_abandoned else await self._executor.perform(operations)
        self.has_begun = True
        if len(operations) == len(group):
            self._first_unexecuted = None
        self._share.give_back((len(group) - len(operations)) * BRIEF_BYTES)
        if not self.is_abandoned:
            self._write(self._render_group(results, group), results, group)

    def _render_group(self, results: list[Result], group: list[Line]) -> bytes:
        """Render the results of a group: brief if they need a file and none is available."""
        text = b"".join(map(self._render_line, results, group))
        try:
            self._reserve(len(text))
        except Overloaded:
            brief = b"".join(map(self._brief_line, results, group))
            self._share.give_back(len(text) - len(brief))
            return brief
        return text

    def _reserve(self, size: int) -> None:
        """Make room for `size` bytes of results, in memory or in a file; Overloaded if a file is unavailable."""
        if self._is_on_disk or self._spool.tell() + size <= MEMORY_BYTES:
            return
        if not self._has_file:
            self._share.take_file()
            self._has_file = True
        try:
            self._move_to_file()
        except OSError as error:
            _log.warning("temporary file cannot be written", error=str(error))
            raise Overloaded(f"temporary file cannot be written: {error.strerror}") from error

    def _move_to_file(self) -> None:
        """Move the results to a file; OSError if it cannot be written, and the results stay in memory."""
        self._spool.seek(0)
        with ExitStack() as stack:
            file = stack.enter_context(
                TemporaryFile(buffering=0)
            )  # a buffer would fail a second time, when it is flushed
            _write_all(file, self._spool.read())
            self._exit_stack.enter_context(stack.pop_all())
        self._spool, self._is_on_disk = file, True

    async def _read(self, group: list[Line]) -> list[ParsedOperation]:
        """Parse the operations of a group, letting other requests run in between; stop if the batch ends."""
        operations: list[ParsedOperation] = []
        size = 0
        for line in group:
            if self._unreadable == MAX_UNREADABLE:
                self.stop(_too_many_unreadable())
                self._first_unexecuted = line.number
                break
            if len(operations) % READ_AT_ONCE == 0 or size >= READ_BYTES:
                size = 0
                await self._take_turn()
            operations.append(read_line(line))
            self._unreadable += isinstance(operations[-1].operation, Exception)
            size += len(line.text or b"")
        return operations

    def _render_line(self, result: Result, line: Line) -> bytes:
        """Render a result as a line. Space for a brief result is reserved already; reserve the rest now."""
        text = self._fit(result, line) + b"\n"
        if len(text) <= BRIEF_BYTES:
            self._share.give_back(BRIEF_BYTES - len(text))
            return text
        try:
            self._share.take(len(text) - BRIEF_BYTES)
        except Overloaded:  # other requests have taken the space
            return self._brief_line(result, line)
        return text

    def _fit(self, result: Result, line: Line) -> bytes:
        if result.is_failure and self._is_brief_failure():
            guid_member = {} if result.unknown_guid is None else {"guid": result.unknown_guid}
            return to_json({"status": result.status, "line": line.number} | guid_member)
        more_bytes = 1 if result.served is None else 1 + MARK_BYTES
        return self._mark(result, result.fit(BRIEF_BYTES + self._share.free_bytes - more_bytes), line)

    def _brief_line(self, result: Result, line: Line) -> bytes:
        return self._mark(result, result.fit(0), line) + b"\n"

    def _mark(self, result: Result, text: bytes, line: Line) -> bytes:
        """Return the text of a result, with a mark if it serves a record."""
        served = result.record_served_by(text)
        if served is None:
            return text
        self._fails_from = min(served.fails_from, self._fails_from or served.fails_from)
        return text + served.mark(line.number)

    def _write(self, text: bytes, results: list[Result], group: list[Line]) -> None:
        """Write the results of a group. If that fails, keep brief results in memory and end the batch."""
        try:
            _write_all(self._spool, text)
            self._spool_bytes += len(text)
        except OSError as error:
            _log.warning("temporary file cannot be written", error=str(error))
            self._unwritten = b"".join(map(self._brief_line, results, group))
            self._first_unexecuted = self._first_unexecuted or group[-1].number + 1
            self.stop(TemporaryFileUnavailable(f"temporary file cannot be written: {error.strerror}"))


def _write_all(file: IO[bytes], text: bytes) -> None:
    """Write all of a text: an unbuffered file may accept only a part at a time."""
    rest = memoryview(text)
    while rest:
        rest = rest[file.write(rest) :]


def _too_many_unreadable() -> InvalidRequest:
    detail = "lines are not operations; correct them, and send this line and the rest in another batch"
    return InvalidRequest(InvalidField("", f"{MAX_UNREADABLE} {detail}", is_clause=True))
