"""The event log of the SQLite store: its contract over the connections and threads of the engine."""

from collections.abc import Sequence
from functools import partial

import structlog

from guidsvc.domain.events.schedule import MARGIN_SECONDS
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.events.shares import Place
from guidsvc.errors import CorruptRecord
from guidsvc.runtime.clock import Clock
from guidsvc.store.event_log import LogBounds, LogPage, Numbered
from guidsvc.store.sqlite.engine import SqliteEngine
from guidsvc.store.sqlite.events.archive import Limits, needs_trim, shares_in, trim, trim_without_archive
from guidsvc.store.sqlite.events.damage import LogDamaged, skip_damage
from guidsvc.store.sqlite.events.due_steps import DueSteps, oldest_due, oldest_unscheduled
from guidsvc.store.sqlite.events.history import read_history
from guidsvc.store.sqlite.events.reading import bounds_of, checksum_at, newest_of, newest_own, read_page, snapshot
from guidsvc.store.sqlite.events.trimming import size_and_age
from guidsvc.telemetry.outage import FirstTimes

POLL_SECONDS = 0.025
STEP_RECORDS = 64
"""A step takes about a millisecond of the writer's thread. With 200, the p99 of updates meanwhile nearly doubled."""
MAX_LOGGED = 1000
"""Maximum number of GUIDs with a damaged history that are logged, each once."""

_log = structlog.get_logger(__name__)


class SqliteEventLog:
    """The log. Reads of only a few pages run on the event loop."""

    poll_seconds = POLL_SECONDS
    step_records = STEP_RECORDS

    def __init__(self, engine: SqliteEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._steps = DueSteps(engine.writer.connection, engine.writer, engine.appender)
        self._data_version: int | None = None
        self._newest = 0
        self._damaged_to = 0
        """The number of the last damaged entry that a reader has reached."""
        self._logged = FirstTimes(MAX_LOGGED)
        self._retention_ms: int | None = None
        """That of the last trim."""

    async def newest(self) -> int:
        reader = self._engine.reader
        with self._engine.failures():
            (data_version,) = reader.execute("PRAGMA data_version").fetchone()  # of the commits of all processes
            if data_version != self._data_version:
                self._newest = newest_of(reader)
                self._data_version = data_version  # read before the number: a commit in between is seen next time
        return self._newest

    async def bounds(self, owner: str | None = None) -> LogBounds:
        reader = self._engine.reader
        with self._engine.failures(), snapshot(reader):
            bounds = bounds_of(reader)
            shares = None if owner is None else shares_in(reader)
            own = Place(bounds.floor, bounds.floor_checksum) if shares is None else shares.floor_of(owner or "")
            floor = max(own.number, self._damaged_to)
            if floor >= bounds.floor:
                floor = skip_damage(reader, floor, bounds.newest)
            checksum = own.checksum if floor == own.number else checksum_at(reader, floor) or 0
            return bounds._replace(floor=floor, floor_checksum=checksum)

    async def checksum(self, number: int) -> int | None:
        with self._engine.failures(), snapshot(self._engine.reader):
            return checksum_at(self._engine.reader, number)

    async def newest_of(self, owner: str, number: int) -> Place | None:
        with self._engine.failures(), snapshot(self._engine.reader):
            return newest_own(self._engine.reader, owner, number, self._recent_at())

    def _recent_at(self) -> int:
        """Return since when the appends were of which entries stay for half of the retention, or longer."""
        return 0 if self._retention_ms is None else self._clock() - self._retention_ms // 2

    async def read(
        self, after: int, limit: int, selection: EventSelection, *, queue_name: str | None = None
    ) -> LogPage:
        page = partial(read_page, after=after, limit=limit, selection=selection)
        try:
            with self._engine.failures():
                return await self._engine.finder.run(page, queue_name)
        except LogDamaged as error:
            if error.last > self._damaged_to:
                self._damaged_to = error.last
                _log.error("event log damaged, readers continue after the damage", error=str(error))
            raise

    async def history(self, guid: str, before: int, limit: int) -> Sequence[Numbered]:
        with self._engine.failures():
            found = await self._engine.finder.run(partial(read_history, guid=guid, before=before, limit=limit))
        if found.damaged and self._logged.is_first(guid):
            first, count = min(found.damaged), len(found.damaged)
            _log.error("event log damaged, the history of a GUID lacks events", guid=guid, first=first, count=count)
        return found.entries

    async def advance(self, now: int, limit: int) -> int:
        now -= MARGIN_SECONDS * 1000
        with self._engine.failures():
            if not self._steps.are_due(self._engine.reader, now):
                return 0
        stepped = await self._engine.in_thread(partial(self._steps.run, now, limit))
        for purge_at in stepped.purged:
            self._engine.meter.lateness.observe(now // 1000 + MARGIN_SECONDS - purge_at)
        return stepped.records

    async def lag(self, now: int) -> float:
        latest = now / 1000 - MARGIN_SECONDS
        reader = self._engine.reader
        with self._engine.failures():
            oldest = oldest_due(reader, int(latest))
            if self._steps.has_unscheduled(reader):  # in a thread: this may look at all that has expired
                unscheduled = await self._engine.finder.run(partial(oldest_unscheduled, seconds=int(latest)), "lag")
                oldest = min((each for each in (oldest, unscheduled) if each is not None), default=None)
        return 0.0 if oldest is None else max(0.0, latest - oldest)

    async def trim(self, before: int, size_bytes: int, limit: int) -> int:
        used_bytes, oldest_at = await self.size()
        now, engine = self._clock(), self._engine
        self._retention_ms = now - before
        with engine.failures():
            if used_bytes <= size_bytes and before <= oldest_at <= now and not needs_trim(engine.reader, before):
                return 0
        of = engine.writer.connection, engine.appender, Limits(before, now, size_bytes), limit
        try:
            return await engine.in_thread(partial(engine.writer.transaction, partial(trim, *of)))
        except CorruptRecord as error:
            done = await engine.in_thread(partial(engine.writer.transaction, partial(trim_without_archive, *of)))
            if self._logged.is_first("archive"):
                _log.error("event log archive damaged, its events are lost", error=str(error))
            return done

    async def size(self) -> tuple[int, int]:
        with self._engine.failures(), snapshot(self._engine.reader):
            size_bytes, oldest_at = size_and_age(self._engine.reader)
            shares = shares_in(self._engine.reader)
            return size_bytes + (0 if shares is None else shares.archive_bytes), oldest_at
