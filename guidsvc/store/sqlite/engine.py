"""The engine of the SQLite store: the connections and threads that all repositories of one file share.

Point reads run on the event loop: they take microseconds, where a thread would cost tens of them. Writes go to one
thread, and are answered once the log is synced. It commits all waiting writes in one transaction (group commit), and
the groups that come together, such as the puts of a batch, in another.
Searches pause while the log exceeds its limit, so that it can be reset.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from guidsvc.domain.events.schedule import DEFAULT_POLICY, EventPolicy
from guidsvc.domain.record import MetadataCheck
from guidsvc.errors import CorruptRecord, GuidsvcError, OutcomeUnknown, StartError, StoreUnavailable
from guidsvc.runtime.background import WorkerThreads, in_thread, spawn_detached
from guidsvc.runtime.batching import Batcher, Patience
from guidsvc.store.sqlite.events.appender import EventAppender
from guidsvc.store.sqlite.files import StoreFiles
from guidsvc.store.sqlite.search.finder import Finder
from guidsvc.store.sqlite.tables import RECORDS, Change, Row, Table, metadata_check
from guidsvc.store.sqlite.writer import Write, Writer, failure
from guidsvc.telemetry.metrics import BatchMetrics, StoreMetrics

WRITE_SECONDS = 5.0
"""Time limit for a write; after it, the caller gets StoreUnavailable or OutcomeUnknown."""
GROUP = 512
"""Maximum number of writes in one transaction."""
GROUPS = 4
"""Maximum number of groups of writes, such as those of batches, in one transaction."""
TRANSACTION_BYTES = 1024 * 1024
"""Bytes of metadata, its copies in the event log, and stored responses in one transaction, for which all others wait.

One write may be larger.
"""

GRACE_SECONDS = 1.0
"""Time that a search may still run once a pause has begun. Then it is interrupted, and repeated after the pause."""
RESET_SECONDS = 1.0
"""Time limit for the reset of the log in a pause: another process may read the log as long as it likes."""
BETWEEN_SECONDS = 4.0
"""Minimum time between two pauses. Together with the grace, it is as long as a request may take: no search starves."""
MAX_BETWEEN_SECONDS = 60.0
"""Maximum of that time, which doubles with each pause in which the log could not be reset."""
_POLL_SECONDS = 0.01

_Done = TypeVar("_Done")


@dataclass(slots=True)
class _Swap:
    change: Write
    is_droppable: bool  # together with the cancel scope of its caller
    written_bytes: int
    is_taken: bool = False  # by the thread: the caller can no longer withdraw it


@dataclass(eq=False)
class _SwapGroup:
    changes: Sequence[Write]
    written_bytes: int
    is_taken: bool = False


class SqliteEngine:
    """A reader connection for the event loop, a writer connection with its own thread, and the threads of searches."""

    def __init__(  # noqa: PLR0913  # one argument per collaborator
        self,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        finder: Finder,
        *,
        write_seconds: float = WRITE_SECONDS,
        meter: StoreMetrics | None = None,
        events: EventPolicy = DEFAULT_POLICY,
        is_claimed: bool = False,
    ) -> None:
        (_, _, self._file) = writer.execute("PRAGMA database_list").fetchone()
        self.files = finder.files = StoreFiles(Path(self._file), is_claimed=is_claimed)
        self.writer = Writer(writer, self.files)
        self.reader = reader
        self.metadata_check = metadata_check(reader)
        """For rows that are converted on the event loop."""
        self.finder = finder
        self._write_seconds = write_seconds
        self._thread = WorkerThreads(1, "sqlite-writer")
        self.meter = StoreMetrics() if meter is None else meter
        self.meter.wal_bytes = self.files.wal_bytes
        self.appender = EventAppender(writer, events, self.meter.events.counts)
        self.writer.on_begin, self.writer.on_commit = self.appender.begin, self.appender.commit
        self.writer.apply_together = self.appender.apply_together
        self._swaps: Batcher[_Swap, bool] = Batcher(
            self._commit,
            limit=GROUP,
            in_flight=1,
            patience=Patience(write_seconds, self._overdue),
            droppable=attrgetter("is_droppable"),
            meter=self.meter.batch("commit"),
            weight=attrgetter("written_bytes"),
            max_weight=TRANSACTION_BYTES,
            by_caller=True,
        )
        self._groups: Batcher[_SwapGroup, Sequence[bool | GuidsvcError]] = Batcher(
            self._commit_groups,
            limit=GROUPS,
            in_flight=1,
            patience=Patience(write_seconds, self._overdue),
            droppable=lambda _: True,
            meter=BatchMetrics("store", "commit"),  # its sizes are those of groups, which no metric shows
            size=lambda group: len(group.changes),
            weight=attrgetter("written_bytes"),
            max_weight=TRANSACTION_BYTES,
            by_caller=True,
        )
        self._waiting_groups: set[_SwapGroup] = set()
        self._count_groups(self.meter.batch("commit"))
        self._settled: Batcher[str, tuple[object, ...] | None] = Batcher(
            self._settle, limit=GROUP, in_flight=1, meter=self.meter.batch("settle"), by_caller=True
        )
        self._pauses = LogPauses(self)
        finder.wait_for_pause = self._pauses.wait

    def read(self, table: Table[Row], key: str) -> Row | None:
        """Return the row with this key, or None if it is absent."""
        try:  # not by `failures`: this is called for each request
            values = self.reader.execute(table.select, (key,)).fetchone()
        except sqlite3.Error as error:
            raise failure(error, self._file) from error
        return None if values is None else row_of(table, key, values, self.metadata_check)

    async def read_linearizable(self, guid: str) -> tuple[object, ...] | None:
        """Return the row of a record once no earlier write is half done, in any process."""
        return await self._settled.ask(guid)

    def swap(self, change: Write, written_bytes: int, *, is_droppable: bool = False) -> Coroutine[Any, Any, bool]:
        """Apply a change that writes texts of so many bytes, with others that wait; return whether it changed a row.

        Callers take turns. A droppable change is dropped if the cancel scope of its caller is cancelled before it is
        sent.
        """
        return self._swaps.ask(_Swap(change, is_droppable, written_bytes))

    async def swap_many(self, changes: Sequence[Write], written_bytes: Sequence[int]) -> Sequence[bool | GuidsvcError]:
        """Apply changes together, as far as a transaction has room for the texts of so many bytes that each writes.

        Return for each whether it changed a row, or its error. Callers take turns. The changes are droppable.
        """
        if sum(written_bytes) <= TRANSACTION_BYTES:
            return await self._swap_group(_SwapGroup(changes, sum(written_bytes)))
        groups = _split(changes, written_bytes)
        return list(chain.from_iterable(await asyncio.gather(*map(self._swap_group, groups))))

    async def _swap_group(self, group: _SwapGroup) -> Sequence[bool | GuidsvcError]:
        self._waiting_groups.add(group)
        try:
            return await self._groups.ask(group)
        except GuidsvcError as error:
            return [error] * len(group.changes)
        finally:
            self._waiting_groups.discard(group)

    def _count_groups(self, meter: BatchMetrics) -> None:
        """Let the metrics count the changes of groups that wait, too."""
        count_single = meter.waiting
        meter.waiting = lambda: count_single() + sum(len(group.changes) for group in self._waiting_groups)

    async def purge(self, statement: str, before: int, limit: int) -> list[int]:
        """Purge, and return the `purge_at` of each deleted row."""
        purge = partial(self.writer.execute_returning, Change(statement, (before, limit)))
        return [int(due) for (due,) in await self.in_thread(partial(self.writer.transaction, purge))]

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Convert SQLite errors raised in the block to errors of the store."""
        try:
            yield
        except sqlite3.Error as error:
            raise failure(error, self._file) from error

    def in_thread(self, work: Callable[[], _Done]) -> asyncio.Future[_Done]:
        """Run the work in the writer's thread."""
        return self._thread.run(work)

    def start(self) -> None:
        """Start a thread for writes and one for searches; StartError if the system has none left."""
        try:
            self._thread.start()
            self.finder.threads.start()
        except RuntimeError as error:
            raise StartError(
                "the system has no thread left: stop other programs, or raise the limit of processes of this user"
            ) from error

    async def aclose(self) -> None:
        """Wait until every write has been answered and the threads have ended. The caller closes the connections."""
        await self._swaps.drain()
        await self._groups.drain()
        await self._settled.drain()
        await self._pauses.drain()
        await self.finder.aclose()
        await in_thread(self._thread.shut_down)

    def _overdue(self, swap: _Swap | _SwapGroup) -> GuidsvcError:
        return (OutcomeUnknown if swap.is_taken else StoreUnavailable)(
            f"the disk took longer than {self._write_seconds} s"
        )

    def _commit(self, swaps: list[_Swap]) -> asyncio.Future[list[bool | GuidsvcError]]:
        for swap in swaps:
            swap.is_taken = True
        return self.in_thread(partial(self.writer.swaps, [swap.change for swap in swaps]))

    def _commit_groups(self, groups: list[_SwapGroup]) -> asyncio.Future[list[Sequence[bool | GuidsvcError]]]:
        for group in groups:
            group.is_taken = True
            self._waiting_groups.discard(group)
        self.meter.batch("commit").sizes.observe(sum(len(group.changes) for group in groups))
        return self.in_thread(partial(self.writer.swaps_of_groups, [group.changes for group in groups]))

    def _settle(self, guids: list[str]) -> asyncio.Future[list[tuple[object, ...] | GuidsvcError | None]]:
        return self.in_thread(partial(self.writer.rows, RECORDS.select, guids))


def _split(changes: Sequence[Write], written_bytes: Sequence[int]) -> list[_SwapGroup]:
    """Return groups of changes in a row, each of at most TRANSACTION_BYTES, or of one change."""
    groups: list[_SwapGroup] = []
    begin = size = 0
    for end, each in enumerate(written_bytes):
        if end > begin and size + each > TRANSACTION_BYTES:
            groups.append(_SwapGroup(changes[begin:end], size))
            begin, size = end, 0
        size += each
    return [*groups, _SwapGroup(changes[begin:], size)]


class LogPauses:
    """Pauses between searches, in which a write-ahead log that exceeds its limit is reset.

    SQLite can reset the log only at a moment when nobody reads it, and searches that overlap leave no such moment. A
    pause makes one: new searches wait until the running ones have ended, or were interrupted, and the log is reset.
    Point reads and writes continue. Processes that share the file pause at about the same time: they see the same log.
    """

    def __init__(self, engine: SqliteEngine) -> None:
        self._engine = engine
        self._finder = engine.finder
        self._files = engine.files
        self._limit_bytes = engine.finder.wal_bytes
        self._pause: asyncio.Task[None] | None = None
        self._between_seconds = BETWEEN_SECONDS
        self._not_before = self._next_look = 0.0

    async def wait(self) -> None:
        """Return when a search may start: at once, or after a pause. Begin a pause if the log exceeds its limit."""
        if self._pause is None and self._is_due():
            self._pause = spawn_detached(self._make_pause())
        while self._pause is not None:
            await asyncio.shield(self._pause)

    async def drain(self) -> None:
        """Wait until no pause is in progress."""
        if self._pause is not None:
            await self._pause

    def _is_due(self) -> bool:
        """Whether a pause must begin. The size of the log is read every _POLL_SECONDS, not for each search."""
        now = asyncio.get_running_loop().time()
        if now < self._not_before or now < self._next_look:
            return False
        self._next_look = now + _POLL_SECONDS
        return self._is_log_large()

    def _is_log_large(self) -> bool:
        return self._files.wal_bytes() > self._limit_bytes

    async def _make_pause(self) -> None:
        try:
            with suppress(GuidsvcError, sqlite3.Error):  # the next pause tries again
                await self._end_searches()
                await self._reset_log()
        finally:
            self._set_next()
            self._pause = None

    def _set_next(self) -> None:
        longer_seconds = min(2 * self._between_seconds, MAX_BETWEEN_SECONDS)
        self._between_seconds = longer_seconds if self._is_log_large() else BETWEEN_SECONDS
        self._not_before = asyncio.get_running_loop().time() + self._between_seconds

    async def _end_searches(self) -> None:
        """Return when no search runs. Interrupt those that take longer than the grace."""
        now = asyncio.get_running_loop().time
        grace_end = now() + GRACE_SECONDS
        while not self._finder.is_idle and now() < grace_end + GRACE_SECONDS:
            if now() >= grace_end:
                self._finder.interrupt()  # repeated, because it affects only running statements
            await asyncio.sleep(_POLL_SECONDS)

    async def _reset_log(self) -> None:
        """Truncate the log. Writes wait only while the last frames are copied, in the writer's thread."""
        now = asyncio.get_running_loop().time
        end = now() + RESET_SECONDS
        shrink = partial(self._files.shrink_wal, self._limit_bytes)
        while self._is_log_large() and now() < end:
            await asyncio.to_thread(shrink)
            await self._engine.in_thread(shrink)
            await asyncio.sleep(_POLL_SECONDS)


def row_of(table: Table[Row], key: str, values: tuple[object, ...], check: MetadataCheck | None = None) -> Row:
    """Convert the values of a row to a model; CorruptRecord if they are invalid."""
    try:
        return table.row(values, check)
    except ValidationError as error:
        raise CorruptRecord(f"the row of {key} is not a valid {table.model.__name__}: {error}") from error
