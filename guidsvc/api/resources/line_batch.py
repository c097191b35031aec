"""A batch of lines: operations that are done as they come, a group at a time, with results spooled to a temporary file.

The spool takes its bytes, and its file, from the temporary space of the request. A batch ends early where that is used
up, where its time is over, where too many lines are not operations, or where the caller has lost the right to go on.
Its last line then says why, and which line was the first that was not done.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO

import structlog
from pydantic_core import to_json

from guidsvc.api.parsing import body
from guidsvc.api.resources.batch_executor import BRIEF_BYTES, GROUP, BatchExecutor, ParsedOperation, Result, read_line
from guidsvc.errors import GuidsvcError, InvalidField, InvalidRequest, Overloaded, TemporaryFileUnavailable, detached
from guidsvc.http.ndjson import Line, NdjsonSplitter
from guidsvc.runtime.temporary_space import MEMORY_BYTES, Share

GROUP_BYTES = 256 * 1024
"""Lines are done together up to a group, or to so many bytes."""
WHOLE_PROBLEMS = 100
"""After so many lines that failed, others are answered by status and line alone."""
MAX_UNREADABLE = 1_000
"""A batch ends after so many lines that are not operations: nobody needs to know of more at a time."""
READ_AT_ONCE, READ_BYTES = 32, 32 * 1024
"""So many lines, or bytes, of a group are read in one turn of the event loop."""
_CHUNK = 64 * 1024

_log = structlog.get_logger(__name__)


class LineBatch:
    """Lines that are done as they come, and their results.

    `confirm` raises what ends the caller's authority. `reader_place` returns a place among all batches that are read.
    """

    def __init__(
        self,
        performer: BatchExecutor,
        opened: ExitStack,
        place: Callable[..., AbstractAsyncContextManager[object]],
        confirm: Callable[[], Awaitable[None]],
        share: Share,
        reader_place: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._performer = performer
        self._place = place
        self._confirm = confirm
        self._share = share
        self._reader_place = reader_place
        self._has_begun = False
        self._lines = NdjsonSplitter(body.MAX_BYTES)
        self._waiting: list[Line] = []
        self._waiting_bytes = 0
        self._opened = opened
        self._spool: IO[bytes] = BytesIO()
        self._spooled_bytes = 0  # of whole results; if a write failed there is a part of one behind them
        self._rest = b""  # the results that could not be written
        self._has_file = self._is_on_disk = False
        self._failures = self._unreadable = 0
        self._end: GuidsvcError | None = None
        self._first_undone: int | None = None
        self.abandoned = False

    @property
    def has_ended(self) -> bool:
        """Whether it does no more lines, and answers what it has done."""
        return self._end is not None

    def stop(self, error: GuidsvcError) -> None:
        """End it early, for this reason."""
        self._end = self._end or detached(error)

    async def feed(self, chunk: bytes) -> None:
        """Take a part of the stream; return when there is room for more."""
        for line in self._lines.feed(chunk):
            if self.abandoned:
                return
            if self._end is not None:
                self._first_undone = self._first_undone or line.number
                return
            await self._add(line)
        if self.abandoned:
            return
        try:
            self._share.hold(self._waiting_bytes + self._lines.held_bytes)
        except Overloaded as error:
            if not self._has_begun:  # nothing was done: the whole request is refused
                raise
            self.stop(error)

    async def end(self) -> None:
        """Do what is left."""
        if self._end is not None:
            return
        for line in self._lines.end():
            await self._add(line)
        await self._do_waiting()

    async def results(self) -> AsyncGenerator[bytes]:
        """Yield the results, a line each, some at a time; if it ended early the last line says why."""
        self._spool.seek(0)
        left = self._spooled_bytes
        while chunk := self._spool.read(min(_CHUNK, left)):
            left -= len(chunk)
            yield chunk
        if self._rest:
            yield self._rest
        if self._end is not None:
            yield self._performer.refuse(self._end, self._undone()).whole + b"\n"

    def _undone(self) -> int:
        """Return the number of the first line that was not done."""
        if self._first_undone is not None:
            return self._first_undone
        return self._waiting[0].number if self._waiting else self._lines.number

    def abandon(self) -> None:
        """Do no more: nobody waits for the results. They are dropped, however long the handler stays in memory."""
        self.abandoned = True
        self._end, self._waiting, self._spool = None, [], BytesIO()

    async def _add(self, line: Line) -> None:
        self._waiting.append(line)
        self._waiting_bytes += len(line.text or b"")
        if len(self._waiting) >= GROUP or self._waiting_bytes >= GROUP_BYTES:
            await self._do_waiting()

    async def _do_waiting(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if self.abandoned or not waiting:
            return
        if self._end is None:
            try:
                await self._do(waiting)
            except GuidsvcError as error:
                if not self._has_begun:  # nothing was done: the whole request is refused
                    raise
                self.stop(error)
        elif self._first_undone is None:
            self._first_undone = waiting[0].number

    async def _do(self, waiting: list[Line]) -> None:
        self._first_undone = waiting[0].number
        await self._confirm()
        self._share.take(len(waiting) * BRIEF_BYTES)
        self._reserve(len(waiting) * BRIEF_BYTES)
        async with self._place(patient=self._has_begun):
            self._has_begun = True
            self._first_undone = None
            asked = await self._read(waiting)
            self._share.give_back((len(waiting) - len(asked)) * BRIEF_BYTES)
            results = [] if self.abandoned else await self._performer.perform(asked)
        if not self.abandoned:
            self._write(self._rendered(results, waiting), results, waiting[-1])

    def _rendered(self, results: list[Result], waiting: list[Line]) -> bytes:
        """Return the results of a group: in brief where they would need a file, and there is none."""
        text = b"".join(map(self._text, results, waiting))
        try:
            self._reserve(len(text))
        except Overloaded:
            brief = b"".join(result.within(0) + b"\n" for result in results)
            self._share.give_back(len(text) - len(brief))
            return brief
        return text

    def _reserve(self, size: int) -> None:
        """Make room for so many bytes of results, in memory or in a file; Overloaded if there can be no file."""
        if self._is_on_disk or self._spool.tell() + size <= MEMORY_BYTES:
            return
        if not self._has_file:
            self._share.take_file()
            self._has_file = True
        try:
            self._move_to_file()
        except OSError as error:
            _log.warning("a temporary file cannot be written", error=str(error))
            raise Overloaded(f"a temporary file cannot be written: {error.strerror}") from error

    def _move_to_file(self) -> None:
        """Move the results to a file; OSError, and they stay in memory, if it cannot be written."""
        self._spool.seek(0)
        with ExitStack() as made:
            file = made.enter_context(TemporaryFile(buffering=0))  # a buffer would fail again when it is flushed
            _write_all(file, self._spool.read())
            self._opened.enter_context(made.pop_all())
        self._spool, self._is_on_disk = file, True

    async def _read(self, waiting: list[Line]) -> list[ParsedOperation]:
        """Read the operations of a group, and give way to others in between; stop where the batch ends."""
        asked: list[ParsedOperation] = []
        size = 0
        async with self._reader_place():
            for line in waiting:
                if self._unreadable == MAX_UNREADABLE:
                    self.stop(_too_many_unreadable())
                    self._first_undone = line.number
                    break
                asked.append(read_line(line))
                self._unreadable += isinstance(asked[-1].operation, Exception)
                size += len(line.text or b"")
                if len(asked) % READ_AT_ONCE == 0 or size >= READ_BYTES:
                    size = 0
                    await asyncio.sleep(0)
        return asked

    def _text(self, result: Result, line: Line) -> bytes:
        """Return a result as a line. Its room in brief has been taken; what it has beyond that is taken now."""
        text = self._fitting(result, line) + b"\n"
        if len(text) <= BRIEF_BYTES:
            self._share.give_back(BRIEF_BYTES - len(text))
            return text
        try:
            self._share.take(len(text) - BRIEF_BYTES)
        except Overloaded:  # other requests have it
            return result.within(0) + b"\n"
        return text

    def _fitting(self, result: Result, line: Line) -> bytes:
        if result.is_failure:
            self._failures += 1
            if self._failures > WHOLE_PROBLEMS:
                return to_json({"status": result.status, "line": line.number})
        return result.within(BRIEF_BYTES + self._share.left - 1)

    def _write(self, text: bytes, results: list[Result], last: Line) -> None:
        """Write the results of a group; if that fails, keep them in brief in memory, and end the batch."""
        try:
            _write_all(self._spool, text)
            self._spooled_bytes += len(text)
        except OSError as error:
            _log.warning("a temporary file cannot be written", error=str(error))
            self._rest = b"".join(result.within(0) + b"\n" for result in results)
            self._first_undone = self._first_undone or last.number + 1
            self.stop(TemporaryFileUnavailable(f"a temporary file cannot be written: {error.strerror}"))


def _write_all(file: IO[bytes], text: bytes) -> None:
    """Write all of a text, though the system may take a part of it at a time."""
    rest = memoryview(text)
    while rest:
        rest = rest[file.write(rest) :]


def _too_many_unreadable() -> InvalidRequest:
    detail = "lines are not operations; correct them, and send what begins with this line in another batch"
    return InvalidRequest(InvalidField("", f"{MAX_UNREADABLE} {detail}"))
