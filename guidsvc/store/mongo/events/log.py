"""The event log of a MongoDB store."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import structlog

from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.events.shares import Place
from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.clock import ContinuousClock, continuous_clock, system_clock
from guidsvc.store.event_log import LogBounds, LogPage, Numbered
from guidsvc.store.mongo.bulkhead import Bulkheads
from guidsvc.store.mongo.events.archive.collection import Archive
from guidsvc.store.mongo.events.lease import Lease
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.reading import Reading
from guidsvc.store.mongo.events.retention import Gap, Retention
from guidsvc.store.mongo.events.sequencer import Sequencer
from guidsvc.store.mongo.events.server_clock import ServerClock
from guidsvc.store.mongo.events.steps import Steps
from guidsvc.store.mongo.repository import Collection
from guidsvc.telemetry.metrics import StoreMetrics
from guidsvc.telemetry.outage import Outage

POLL_SECONDS = 0.2
"""Interval of reads of the outboxes for entries of other processes, and of calls of `newest`."""
STEP_RECORDS = 200
"""A step is a read and a bulk write, so its round trips cost more than its records."""
GATHER_SECONDS = 0.01
"""Pause of the sequencer after a write of its own process, so that one round moves several entries."""
RETRY_SECONDS = 1.0
FAILING_SECONDS = 10.0
"""A sequencer that fails for longer than this is logged. Before that, the health of the store shows the fault."""

_log = structlog.get_logger(__name__)


class LogCollections(NamedTuple):
    """The collections of a log, and the collection of the records."""

    records: Collection
    log: Collection
    bounds: Collection
    leases: Collection
    archive: Collection


class MongoEventLog:
    """The event log: a collection that a sequencer appends to."""

    poll_seconds = POLL_SECONDS
    step_records = STEP_RECORDS

    def __init__(
        self,
        collections: LogCollections,
        bulkheads: Bulkheads,
        *,
        policy: EventPolicy,
        meter: StoreMetrics,
        timer: ContinuousClock = continuous_clock,
    ) -> None:
        operations = Operations(bulkheads)
        records, log, bounds, leases, archived = collections
        self.policy = policy
        self._meter = meter
        self._timer = timer
        self._looked_at = timer()
        """When it was last known how old the entries in the outboxes are, or that another process measures it."""
        self.server_clock = ServerClock(meter)
        self._sequencing = Lease(leases, "sequencer", operations, self.server_clock)
        self._scheduling = Lease(leases, "scheduler", operations, self.server_clock)
        self._sequencer = Sequencer(records, log, bounds, operations, meter.events.counts)
        archive = Archive(archived, operations)
        self._retention = Retention(records, log, bounds, operations, self._sequencer, archive)
        self._reading = Reading(log, operations, self._sequencer, self._retention, archive)
        self._retention_ms: int | None = None
        """That of the last trim."""
        self._gap = Gap(bounds, operations)
        self._steps = Steps(records, bounds, operations, policy, meter, self.note_gap)
        self._written = asyncio.Event()
        self._outage = Outage(_log, "event sequencer failing", "event sequencer works again")
        self._failing_since: float | None = None
        """When the sequencer failed first since its last success, by the time of the event loop."""

    async def newest(self) -> int:
        return (await self._sequencer.head()).number

    async def bounds(self, owner: str | None = None) -> LogBounds:
        return await self._retention.bounds(owner)

    async def checksum(self, number: int) -> int | None:
        return await self._reading.checksum(number)

    async def newest_of(self, owner: str, number: int) -> Place | None:
        now = self._now(system_clock())
        since = 0 if self._retention_ms is None else now - self._retention_ms // 2
        return await self._reading.newest_of(owner, number, since)

    async def read(
        self, after: int, limit: int, selection: EventSelection, *, queue_name: str | None = None
    ) -> LogPage:
        return await self._reading.page(after, limit, selection, queue_name)

    async def history(self, guid: str, before: int, limit: int) -> Sequence[Numbered]:
        return await self._reading.history(guid, before, limit)

    async def advance(self, now: int, limit: int) -> int:
        if not await self._scheduling.hold():
            return 0
        done = await self._steps.advance(self._now(now), limit)
        if done:
            self.wake()
        return done

    async def lag(self, now: int) -> float:
        return await self._steps.lag(self._now(now))

    async def trim(self, before: int, size_bytes: int, limit: int) -> int:
        self._retention_ms = system_clock() - before
        return await self._retention.trim(before, size_bytes, limit)

    async def size(self) -> tuple[int, int]:
        return await self._retention.size()

    async def note_gap(self) -> None:
        """Note that a change has no entries, before it is made, if the log is off."""
        if not self.policy.is_on:
            await self._gap.note()

    def wake(self) -> None:
        """Let the sequencer begin a round, because this process has filled an outbox."""
        self._written.set()

    async def drain_outbox(self, guid: str) -> None:
        """Move entries from the outbox of one GUID to the log, because it is full. An invalid one is repaired first."""
        try:
            await self._sequencer.repair(guid)
            await self._sequencer.run_round(guid)
        except OutcomeUnknown as error:  # the unknown outcome is not that of the write that waits for this
            raise StoreUnavailable(str(error)) from error

    async def run_sequencer(self) -> None:
        """Move entries from the outboxes to the log, for as long as this process holds the lease; until cancelled."""
        timer = asyncio.get_running_loop().time
        while True:
            await self._wait_for_write()
            try:
                await self._move_all()
            except GuidsvcError as error:
                self._failing_since = timer() if self._failing_since is None else self._failing_since
                if timer() - self._failing_since >= FAILING_SECONDS:
                    self._outage.begin(error=str(error))
                await self._look()
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._note_success()

    async def release_leases(self) -> None:
        """Release the leases, so that another process continues at once."""
        for lease in (self._sequencing, self._scheduling):
            with suppress(GuidsvcError):  # then they expire
                await lease.release()

    async def _wait_for_write(self) -> None:
        try:
            async with asyncio.timeout(self.poll_seconds):
                await self._written.wait()
            await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            pass  # other processes write too
        self._written.clear()

    async def _move_all(self) -> None:
        """Run rounds until no entry is left to move."""
        while await self._sequencing.hold():
            moved = await self._sequencer.run_round()
            self._note_success()
            self._note_lag()
            if not moved:
                return
        self._looked_at = self._timer()
        self._meter.sequencer_lag_seconds = None  # another process holds the lease, and measures it

    def _note_success(self) -> None:
        self._failing_since = None
        self._outage.end()

    async def _look(self) -> None:
        """Record the lag after a failure, because perhaps no process moves entries, whichever holds the lease."""
        try:
            await self._sequencer.look()
        except GuidsvcError:  # then the changes since the last read are unknown
            self._meter.sequencer_lag_seconds = max(self._pending_seconds(), self._timer() - self._looked_at)
        else:
            self._note_lag()

    def _note_lag(self) -> None:
        self._looked_at = self._timer()
        self._meter.sequencer_lag_seconds = self._pending_seconds()

    def _pending_seconds(self) -> float:
        """Return the age of the oldest entry that was not in the log when the outboxes were read last."""
        pending, now = self._sequencer.pending, self.server_clock.now()
        return 0.0 if pending is None or now is None else max(0.0, (now - pending) / 1000)

    def _now(self, now: int) -> int:
        """Return the time by the server's clock; `now` if no answer has told it."""
        server_now = self.server_clock.now()
        return now if server_now is None else server_now
