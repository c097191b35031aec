"""Compare the event log with a small model, over random writes and times."""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidsvc.domain.events.schedule import MARGIN_SECONDS, EventMode, EventPolicy
from guidsvc.domain.record import Record
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.support.events import every_entry, next_version, tombstone
from tests.support.example_count import example_count
from tests.support.factories import record

LEAD, RETENTION = 10, 30
START_MS = 1_800_000_000_000
GUIDS = [f"{number:032X}" for number in range(3)]


class Operation(NamedTuple):
    """An operation: a write to a GUID, the passing of time, or a run of the scheduler."""

    name: str
    guid_index: int
    seconds: int


OPERATIONS = st.builds(
    Operation,
    st.sampled_from(["write", "write", "renew", "delete", "lose", "wait", "wait", "advance", "trim", "reopen"]),
    st.integers(0, len(GUIDS) - 1),
    st.sampled_from([-5, 0, 1, 5, 19, 20, 31, 60]),
)


@dataclass
class ModelRecord:
    """A record in the model."""

    record: Record
    is_warned: bool = False
    is_expired: bool = False


@dataclass
class Model:
    """The expected entries: kinds and versions in order, by GUID."""

    mode: EventMode
    now: int = START_MS
    known: dict[str, ModelRecord] = field(default_factory=dict)
    entries: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: {guid: [] for guid in GUIDS})
    chain_starts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GUIDS, 0))
    """Number of entries from before the last deletion of the row, which ends the chain of its history."""

    def append(self, kind: str, of: Record, *, is_revival: bool = False) -> None:
        if self.mode == "all" or (self.mode == "changes" and (kind != "renewed" or is_revival)):
            self.entries[of.guid].append((kind, of.version))

    def write(self, kind: str, new: Record) -> None:
        """Append the entry of a write, and before it the expiry and purge that the old version still lacks."""
        known, is_revival = self.known.get(new.guid), False
        if known is not None and not known.record.is_deleted:
            old = known.record
            if self.now >= old.expire * 1000 and not known.is_expired:
                self.append("expired", old)
            if self.now >= old.purge_at * 1000:
                self.append("purged", old)
            is_revival = self.now >= old.expire * 1000
        self.append(kind, new, is_revival=is_revival)
        self.known[new.guid] = ModelRecord(new)
        if new.expire * 1000 <= self.now and not new.is_deleted:
            self.append("expired", new)
            self.known[new.guid].is_expired = True

    def advance(self) -> None:
        """Append the entries of all due steps."""
        seconds = self.now // 1000 - MARGIN_SECONDS
        for guid, known in list(self.known.items()):
            of = known.record
            if not of.is_deleted:
                self._expire(known, seconds)
                if seconds >= of.purge_at:
                    self.append("purged", of)
            if seconds >= of.purge_at:
                del self.known[guid]
                self.chain_starts[guid] = len(self.entries[guid])

    def _expire(self, known: ModelRecord, seconds: int) -> None:
        of = known.record
        has_lead = of.expire - of.updated // 1000 >= 2 * LEAD
        if seconds >= of.expire and not known.is_expired:
            self.append("expired", of)
            known.is_expired = True
        elif of.expire - LEAD <= seconds + MARGIN_SECONDS < of.expire and has_lead and not known.is_warned:
            self.append("expiring", of)
            known.is_warned = True


class Run:
    """A run of operations on a store and on its model."""

    def __init__(self, path: Path, mode: EventMode) -> None:
        self.path = path
        self.policy = EventPolicy(mode, (LEAD,))
        self.model = Model(mode)
        self.found: list[tuple[int, str, str, int]] = []
        """Number, GUID, kind and version of all entries, including those that were trimmed."""

    async def do(self, store: SqliteStore, operation: Operation) -> None:
        """Execute an operation on both."""
        model = self.model
        known = model.known.get(GUIDS[operation.guid_index])
        old = None if known is None else known.record
        is_absent = old is None or old.is_deleted or model.now >= old.purge_at * 1000
        if operation.name == "wait":
            model.now += max(operation.seconds, 0) * 1000 + 137
        elif operation.name == "advance":
            while await store.events.advance(model.now, 2):
                pass
            model.advance()
        elif operation.name == "trim":
            await self.collect(store)
            await store.events.trim(model.now + 1, 0, 2)
        elif operation.name == "lose":
            stale = record(model.now, guid=GUIDS[operation.guid_index], version=1)
            assert not await store.records.swap(stale, next_version(stale, model.now))
        elif operation.name == "write" or (operation.name == "renew" and not is_absent):
            await self.write(store, operation, old, is_absent=is_absent)
        elif operation.name == "delete" and old is not None and not is_absent:
            new = tombstone(old, model.now)
            assert await store.records.swap(old, new)
            model.write("deleted", new)

    async def write(self, store: SqliteStore, operation: Operation, old: Record | None, *, is_absent: bool) -> None:
        now = self.model.now
        expire = now // 1000 + operation.seconds
        times = {"expire": expire, "purge_at": max(expire, now // 1000) + RETENTION}
        if old is None or is_absent:
            version = now if old is None else max(now, old.version + 1)
            new, kind = record(now, guid=GUIDS[operation.guid_index], version=version, **times), "created"
        elif operation.name == "renew" and expire > old.expire:
            new, kind = next_version(old, now, **times), "renewed"
        else:
            new, kind = next_version(old, now, user=f"user {now}{old.version}", **times), "updated"
        assert await store.records.swap(old, new)
        self.model.write(kind, new)

    async def collect(self, store: SqliteStore) -> None:
        """Read the entries that were appended since the last call."""
        last = self.found[-1][0] if self.found else 0
        self.found += [
            (number, entry.guid, entry.kind, entry.version)
            for number, entry, _ in await every_entry(store.events)
            if number > last
        ]

    async def check(self, store: SqliteStore) -> None:
        """Compare the log with the model."""
        await self.collect(store)
        assert [number for number, *_ in self.found] == list(range(1, len(self.found) + 1))
        for guid in GUIDS:
            assert [(kind, version) for _, of, kind, version in self.found if of == guid] == self.model.entries[guid]
            await self.check_history(store, guid)
        size_bytes, _ = await store.events.size()
        assert (size_bytes > 0) == bool(self.found)

    async def check_history(self, store: SqliteStore, guid: str) -> None:
        """Compare the history of one GUID."""
        await self.collect(store)
        floor = (await store.events.bounds()).floor
        if await store.records.get(guid) is not None:
            history = [number for number, *_ in await store.events.history(guid, 2**40, 1000)]
            assert history == self.since_purge(guid, floor), guid

    def since_purge(self, guid: str, floor: int) -> list[int]:
        """Return the numbers of a GUID, newest first, since its row was last deleted."""
        numbers = [number for number, of, *_ in self.found if of == guid][self.model.chain_starts[guid] :]
        return [number for number in reversed(numbers) if number > floor]


async def run(operations: list[Operation], mode: EventMode) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "a.db"
        of = Run(path, mode)
        remaining = list(operations)
        while remaining:
            async with open_sqlite(path, exclusive=False, events=of.policy) as store:
                while remaining and (operation := remaining.pop(0)).name != "reopen":
                    await of.do(store, operation)
                    await of.check_history(store, GUIDS[operation.guid_index])
                await of.check(store)
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
@settings(deadline=None, max_examples=example_count(40))
@given(st.lists(OPERATIONS, min_size=20, max_size=60), st.sampled_from(["all", "changes", "off"]))
def test_log_equals_its_model(operations: list[Operation], mode: EventMode) -> None:
    asyncio.run(run(operations, mode))
