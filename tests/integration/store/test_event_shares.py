"""Shares of owners in a full event log, on each store: after a restart or upgrade, and beside an older process."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pymongo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidsvc.domain.events import shares as shares_module
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.events.shares import decode
from guidsvc.errors import EventsTrimmed
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.event_log import Numbered
from guidsvc.store.mongo.events.archive import trim as mongo_trim
from guidsvc.store.sqlite.backup import salvage
from guidsvc.store.sqlite.events import archive as sqlite_archive
from guidsvc.store.sqlite.schema import MIGRATIONS, open_writer
from guidsvc.store.sqlite.store import open_sqlite, path_of_url
from tests.conftest import FakeClock
from tests.support.event_shares import SIZE_BYTES, create_of, own_entries, trim_all
from tests.support.events import ALL, every_entry
from tests.support.example_count import example_count
from tests.support.factories import record

OWNERS = ["", "alice", "bob", "carol"]


@pytest.fixture(params=["sqlite", "mongo"])
def store_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


async def flood(url: str, clock: FakeClock, *, is_trimmed: bool = True) -> list[Numbered]:
    """Write one event of bob, and three times the log's size of alice; return the events of bob."""
    async with open_store(url, exclusive=False) as store:
        await create_of(store.records, store.events, clock, "bob", 1)
        await create_of(store.records, store.events, clock, "alice", 3 * SIZE_BYTES)
        events_of_bob = await own_entries(store.events, "bob", 0)
        if is_trimmed:
            await trim_all(store.events)
        return events_of_bob


async def stored_bounds(url: str) -> dict[str, Any]:
    """Read the floor and the shares directly from the database."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of_url(url))) as file:
            floor, shares = file.execute("SELECT floor, shares FROM log_bounds").fetchone()
            return {"floor": floor, "shares": shares}
    with pymongo.MongoClient[dict[str, Any]](url) as mongo:
        return mongo.get_default_database()["log_bounds"].find_one({"_id": "log"}) or {}


async def archive_size(url: str) -> int:
    """Count the entries of the archive directly in the database."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of_url(url))) as file:
            return int(file.execute("SELECT count(*) FROM log_archive").fetchone()[0])
    with pymongo.MongoClient[dict[str, Any]](url) as mongo:
        return mongo.get_default_database()["log_archive"].count_documents({})


async def test_shares_survive_a_restart(store_url: str, clock: FakeClock) -> None:
    events_of_bob = await flood(store_url, clock)
    async with open_store(store_url, exclusive=False) as store:
        assert await own_entries(store.events, "bob", 0) == events_of_bob
        floor = (await store.events.bounds("alice")).floor
        assert floor > 0
        await create_of(store.records, store.events, clock, "alice", 3 * SIZE_BYTES)
        await trim_all(store.events)
        assert await own_entries(store.events, "bob", 0) == events_of_bob
        assert (await store.events.bounds("alice")).floor > floor


async def test_counted_bytes_are_those_of_the_entries(store_url: str, clock: FakeClock) -> None:
    await flood(store_url, clock)
    async with open_store(store_url, exclusive=False) as store:
        size_bytes, _ = await store.events.size()
        found = await stored_bounds(store_url)
        shares = decode(found["shares"], found["floor"])
        assert shares is not None
        assert sum(share.size_bytes for share in shares.owners.values()) == size_bytes
        assert shares.owners["bob"].size_bytes == shares.owners["bob"].archived_bytes == shares.archive_bytes


async def test_full_log_of_an_older_version_gets_shares(
    store_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log without shares is counted in steps. Nothing is removed before the count is complete."""
    for module in (sqlite_archive, mongo_trim):
        monkeypatch.setattr(module, "COUNTED", 10)
    events_of_bob = await flood(store_url, clock, is_trimmed=False)
    async with open_store(store_url, exclusive=False) as store:
        assert await store.events.trim(0, SIZE_BYTES, 50) == 50, "counting must take several steps"
        assert (await store.events.bounds()).floor == 0
        await trim_all(store.events)
        assert await own_entries(store.events, "bob", 0) == events_of_bob
        assert (await store.events.size())[0] <= SIZE_BYTES


async def test_log_within_its_size_is_not_counted(store_url: str, clock: FakeClock) -> None:
    async with open_store(store_url, exclusive=False) as store:
        await create_of(store.records, store.events, clock, "alice", SIZE_BYTES // 2)
        assert await store.events.trim(0, SIZE_BYTES, 50) == 0
    assert (await stored_bounds(store_url)).get("shares") is None


async def test_log_without_owners_is_trimmed_by_age_and_size(store_url: str, clock: FakeClock) -> None:
    async with open_store(store_url, exclusive=False) as store:
        await create_of(store.records, store.events, clock, "", 3 * SIZE_BYTES)
        await trim_all(store.events)
        assert (await store.events.bounds("")).floor == (await store.events.bounds()).floor > 0
    assert (await stored_bounds(store_url)).get("shares") is None
    assert await archive_size(store_url) == 0


async def test_floor_raised_by_older_process_invalidates_the_archive(store_url: str, clock: FakeClock) -> None:
    """The older process ignores shares, so the archive may lack entries of an owner."""
    await flood(store_url, clock)
    floor = (await stored_bounds(store_url))["floor"] + 2
    if store_url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of_url(store_url), isolation_level=None)) as file:
            file.executescript(
                f"UPDATE log_bounds SET floor = {floor}, floor_total = (SELECT total FROM log WHERE seq = {floor});"
                f"DELETE FROM log WHERE seq <= {floor}"
            )
    else:
        with pymongo.MongoClient[dict[str, Any]](store_url) as mongo:
            database = mongo.get_default_database()
            total = (database["log"].find_one({"_id": floor}) or {})["total"]
            database["log_bounds"].update_one({"_id": "log"}, {"$set": {"floor": floor, "total": total}})
    async with open_store(store_url, exclusive=False) as store:
        for owner in ("alice", "bob", None):
            assert (await store.events.bounds(owner)).floor == floor
        with pytest.raises(EventsTrimmed):
            await own_entries(store.events, "bob", 0)
        await create_of(store.records, store.events, clock, "bob", 1)
        await create_of(store.records, store.events, clock, "alice", 3 * SIZE_BYTES)
        await trim_all(store.events)
        assert len(await own_entries(store.events, "bob", floor)) == 1
        with pytest.raises(EventsTrimmed):
            await own_entries(store.events, "bob", floor - 1)
    assert await archive_size(store_url) == 1


async def test_processes_that_trim_concurrently_lose_nothing(store_url: str, clock: FakeClock) -> None:
    events_of_bob = await flood(store_url, clock, is_trimmed=False)
    async with open_store(store_url, exclusive=False) as one, open_store(store_url, exclusive=False) as other:
        await asyncio.gather(*(trim_all(each.events, limit=3) for each in (one, other, one, other)))
        for store in (one, other):
            assert await own_entries(store.events, "bob", 0) == events_of_bob
            assert (await store.events.size())[0] <= SIZE_BYTES


async def test_shares_are_bounded_with_many_owners(
    store_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares_module, "MAX_OWNERS", 4)
    async with open_store(store_url, exclusive=False) as store:
        for number in range(6):
            await create_of(store.records, store.events, clock, f"owner {number}", 1)
        await create_of(store.records, store.events, clock, "alice", 2 * SIZE_BYTES)
        await trim_all(store.events)
        found = await stored_bounds(store_url)
        shares = decode(found["shares"], found["floor"])
        assert shares is not None
        assert len(shares.owners) <= 4
        assert len(await own_entries(store.events, "owner 0", 0)) == 1
        assert (await store.events.size())[0] <= SIZE_BYTES


async def test_salvaged_log_has_no_archive(path: Path, clock: FakeClock) -> None:
    url = f"sqlite:///{path}"
    await flood(url, clock)
    copy = path.with_name("copy.db")
    salvage(path, copy, overwrite=False)

    async with open_sqlite(copy, exclusive=False) as store:
        assert (await store.events.bounds("bob")).floor == (await store.events.bounds()).floor > 0
        with pytest.raises(EventsTrimmed):
            await own_entries(store.events, "bob", 0)


async def test_file_of_an_older_version_gets_an_archive(path: Path, clock: FakeClock) -> None:
    open_writer(path, MIGRATIONS[:11]).close()
    await flood(f"sqlite:///{path}", clock)
    async with open_sqlite(path, exclusive=False) as store:
        assert len(await own_entries(store.events, "bob", 0)) == 1


class Model:
    """A SQLite log of a few owners, and a list of all entries that it ever had."""

    def __init__(self, store: Database) -> None:
        self.log = store.events
        self.store = store
        self.seen: list[Numbered] = []
        self.sizes: dict[int, int] = {}

    async def write(self, owner: str, size: int) -> None:
        number = len(self.seen)
        metadata = '{"a":"' + "x" * size + '"}'
        new = record(1_800_000_000_000 + number, guid=f"{number:032X}", owner=owner, metadata=metadata)
        size_before, _ = await self.log.size()
        assert await self.store.records.swap(None, new)
        self.seen += (await self.log.read(number, 1, ALL)).entries
        self.sizes[self.seen[-1].number] = (await self.log.size())[0] - size_before

    async def floors(self) -> dict[str, int]:
        return {owner: (await self.log.bounds(owner)).floor for owner in OWNERS}

    async def trim(self, size_bytes: int, limit: int) -> None:
        """Trim the log. Check that an owner within an equal share loses nothing."""
        before = await self.floors()
        sizes = Counter[str]()
        for number, entry, _ in self.seen:
            if number > before[entry.owner]:
                sizes[entry.owner] += self.sizes[number]
        while await self.log.trim(0, size_bytes, limit):
            pass
        after = await self.floors()
        for owner, size in sizes.items():
            if size <= size_bytes // len(sizes) and any(sizes[each] for each in OWNERS if each):
                assert self.remaining(owner, after) == self.remaining(owner, before), owner
        assert (await self.log.size())[0] <= size_bytes + self.sizes[self.seen[-1].number], "the newest entry must stay"

    def remaining(self, owner: str, floors: dict[str, int]) -> list[Numbered]:
        return [each for each in self.seen if each.entry.owner == owner and each.number > floors[owner]]

    async def check(self) -> None:
        """Check that each reader gets all entries after its floor, and none before it."""
        floors = await self.floors()
        for owner in OWNERS:
            assert await own_entries(self.log, owner, floors[owner]) == self.remaining(owner, floors)
            if floors[owner]:
                with pytest.raises(EventsTrimmed):
                    await self.log.read(floors[owner] - 1, 5, EventSelection(owner=owner))
        floor = (await self.log.bounds()).floor
        assert await every_entry(self.log) == [each for each in self.seen if each.number > floor]


STEP = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(OWNERS), st.sampled_from([1, 200, 3000])),
    st.tuples(st.just("flood"), st.sampled_from(OWNERS), st.integers(2, 12)),
    st.tuples(st.just("trim"), st.sampled_from([2000, 5000, 9000]), st.sampled_from([1, 3, 50])),
)


async def run_steps(path: Path, steps: list[Any]) -> None:
    async with open_sqlite(path, exclusive=False) as store:
        model = Model(store)
        for name, first, second in steps:
            if name == "trim" and model.seen:
                await model.trim(first, second)
            elif name != "trim":
                for _ in range(second if name == "flood" else 1):
                    await model.write(first, 500 if name == "flood" else second)
            await model.check()


@pytest.mark.slow
@settings(deadline=None, max_examples=example_count(25))
@given(st.lists(STEP, min_size=5, max_size=25))
def test_shares_equal_their_model(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    asyncio.run(run_steps(tmp_path_factory.mktemp("shares") / "a.db", steps))
