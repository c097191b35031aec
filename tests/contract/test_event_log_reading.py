"""The contract of the event log, for every store and cache: reading and trimming."""

import asyncio
from collections.abc import Callable

import pytest

from guidsvc.domain.events.cursor import SECRET_BYTES
from guidsvc.domain.events.entry import Entry, Origin
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsTrimmed
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.event_log import PAGE_BYTES
from tests.conftest import FakeClock
from tests.support.events import (
    ALL,
    HOUR,
    every_entry,
    expired_record,
    next_version,
    numbered_after,
    until_newest,
)
from tests.support.factories import GUID, USER, record


async def test_page_continues_after_any_entry(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    for number in range(10):
        await store.swap(None, record(clock(), guid=f"{number:032X}"))
    await numbered_after(database.events, 0, 10)

    for after in range(11):
        page = await database.events.read(after, 4, ALL)
        assert [number for number, *_ in page.entries] == list(range(after + 1, min(after + 4, 10) + 1))
        assert page.looked_to == min(after + 4, 10)
        assert page.looked_to_checksum == await database.events.checksum(page.looked_to)
        assert page.newest == 10


SELECTIONS: list[tuple[EventSelection, Callable[[Entry], bool]]] = [
    (EventSelection(owner="alice"), lambda entry: entry.owner == "alice"),
    (EventSelection(owner=""), lambda entry: entry.owner == ""),
    (EventSelection(kinds=frozenset({"created"})), lambda entry: entry.kind == "created"),
    (EventSelection(kinds=frozenset()), lambda entry: False),
    (EventSelection(guid_prefix="000000000000000000000000000000"), lambda entry: True),
    (EventSelection(guid_prefix=f"{3:032X}"), lambda entry: entry.guid == f"{3:032X}"),
    (EventSelection(guid_prefix="F"), lambda entry: False),
    (EventSelection(user=USER), lambda entry: USER in {entry.user, entry.former_user}),
    (EventSelection(user='it\'s "x" $1'), lambda entry: 'it\'s "x" $1' in {entry.user, entry.former_user}),
    (
        EventSelection(owner="alice", kinds=frozenset({"updated", "deleted"}), user=USER),
        lambda entry: entry.owner == "alice" and entry.kind == "updated",
    ),
]


@pytest.mark.parametrize(("selection", "is_selected"), SELECTIONS, ids=range(len(SELECTIONS)))
async def test_page_has_the_selected_entries(
    store: RecordRepository,
    database: Database,
    clock: FakeClock,
    selection: EventSelection,
    is_selected: Callable[[Entry], bool],
) -> None:
    for number in range(6):
        old = record(clock(), guid=f"{number:032X}", owner="alice" if number % 2 else "")
        await store.swap(None, old)
        await store.swap(old, next_version(old, clock() + 1, user='it\'s "x" $1'))
    numbered = await numbered_after(database.events, 0, 12)
    expected = [each for each in numbered if is_selected(each.entry)]

    page = await database.events.read(0, 100, selection)
    assert list(page.entries) == expected
    assert page.looked_to == 12, "the page must end after the last entry that was scanned, matching or not"
    assert [each for each in numbered if selection.matches(each.entry)] == expected
    first = await database.events.read(0, 1, selection)
    assert list(first.entries) == expected[:1]
    assert first.looked_to == (expected[0].number if expected else 12)


async def test_size_of_an_event_is_as_documented(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    """The retention figures of docs/events.md are computed from these sizes."""
    for count, metadata_bytes in (1, 0), (2, 1024), (3, 16_384):
        before, _ = await database.events.size()
        metadata = f'{{"a":"{"x" * (metadata_bytes - 8)}"}}' if metadata_bytes else None
        new = record(clock(), guid=f"{count:032X}", owner="billing", metadata=metadata)
        await store.swap(None, new, origin=Origin("key:0123456789abcdef", "b3f1c0d2-00000001"))
        await until_newest(database.events, count)
        size_bytes = (await database.events.size())[0] - before
        assert 200 < size_bytes - metadata_bytes < 500


@pytest.mark.parametrize("text", ["x" * 16_000, "\U0001f600" * 4000], ids=["ascii", "wide"])
async def test_page_is_bounded_in_bytes(
    store: RecordRepository, database: Database, clock: FakeClock, text: str
) -> None:
    metadata = f'{{"a":"{text}"}}'
    count = PAGE_BYTES // 16_000 + 20
    await asyncio.gather(
        *(store.swap(None, record(clock(), guid=f"{number:032X}", metadata=metadata)) for number in range(count))
    )
    await until_newest(database.events, count)

    page = await database.events.read(0, 10_000, ALL)
    size = sum(len((entry.metadata or "").encode()) for _, entry, _ in page.entries)
    assert PAGE_BYTES - 17_000 <= size <= PAGE_BYTES + 17_000
    assert page.looked_to == page.entries[-1].number < count
    assert len(await every_entry(database.events)) == count


async def test_checksum_identifies_an_entry(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    log = database.events
    empty = await log.bounds()
    assert (empty.floor, empty.floor_checksum, empty.newest, empty.newest_checksum) == (0, 0, 0, 0)
    assert 0 <= empty.key.epoch < 2**32
    assert len(empty.key.secret) == SECRET_BYTES
    assert (await log.checksum(0), await log.checksum(1)) == (0, None)
    for number in range(3):
        await store.swap(None, record(clock(), guid=f"{number:032X}"))
    numbered = await numbered_after(log, 0, 3)

    assert [await log.checksum(number) for number, *_ in numbered] == [each.checksum for each in numbered]
    assert await log.checksum(4) is None
    bounds = await log.bounds()
    assert bounds == (empty.key, 0, 0, 3, numbered[-1].checksum)


async def test_history_has_one_guid_newest_first(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    current = record(clock())
    await store.swap(None, current)
    for step in range(1, 5):
        await store.swap(None, record(clock(), guid=f"{step:032X}"))
        after = next_version(current, clock() + step, user=f"user {step}")
        await store.swap(current, after)
        current = after
    own = [number for number, entry, _ in reversed(await numbered_after(database.events, 0, 9)) if entry.guid == GUID]

    assert [number for number, *_ in await database.events.history(GUID, 100, 100)] == own
    assert [number for number, *_ in await database.events.history(GUID, 100, 2)] == own[:2]
    assert [number for number, *_ in await database.events.history(GUID, own[1], 2)] == own[2:4]
    assert [number for number, *_ in await database.events.history(GUID, own[2] + 1, 2)] == own[2:4]
    assert [number for number, *_ in await database.events.history(GUID, own[-1], 2)] == []
    assert await database.events.history("F" * 32, 100, 2) == []


async def test_trim_removes_the_oldest_and_never_the_newest(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    log = database.events
    for number in range(10):
        await store.swap(None, record(clock(), guid=f"{number:032X}"))
    numbered = await numbered_after(log, 0, 10)
    size_bytes, oldest_at = await log.size()
    assert oldest_at > 0

    assert await log.trim(0, size_bytes, 500) == 0
    assert await log.trim(0, size_bytes - 1, 500) == 1
    assert await log.trim(0, 0, 3) == 3
    bounds = await log.bounds()
    assert (bounds.floor, bounds.floor_checksum) == (4, numbered[3].checksum)
    assert (await log.checksum(4), await log.checksum(3)) == (bounds.floor_checksum, None)
    assert [number for number, *_ in (await log.read(4, 100, ALL)).entries] == list(range(5, 11))
    with pytest.raises(EventsTrimmed):
        await log.read(3, 100, ALL)

    in_an_hour = clock() + HOUR * 1000
    assert await log.trim(in_an_hour, 2**40, 500) == 5
    assert await log.trim(in_an_hour, 0, 500) == 0
    assert [number for number, *_ in (await log.read(9, 100, ALL)).entries] == [10]
    assert (await log.size())[0] > 0
    assert await store.swap(None, record(clock(), guid="F" * 32))
    assert [number for number, *_ in await numbered_after(log, 9, 2)] == [10, 11]


async def test_age_of_an_entry_counts_from_its_append(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """An expiry that is logged late stays for the whole retention."""
    log = database.events
    old = expired_record(clock, expire=clock.seconds - 60)
    await store.swap(None, old)
    assert await log.advance(clock(), 100) == 1
    for count, guid in (3, "0" * 32), (4, "1" * 32):  # the last one waits until the outboxes of the others are empty
        await store.swap(None, record(clock(), guid=guid))
        await numbered_after(log, 0, count)

    a_retention_ago = clock() - 30_000
    await log.trim(a_retention_ago, 2**40, 500)
    kept = [(entry.kind, entry.guid) for _, entry, _ in await every_entry(log)]
    assert set(kept) >= {("expired", GUID), ("created", "0" * 32), ("created", "1" * 32)}
    assert (await log.size())[1] >= a_retention_ago


async def test_page_has_no_gap_while_the_log_is_trimmed(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """A read returns a complete page or raises EventsTrimmed."""
    log = database.events
    await asyncio.gather(*(store.swap(None, record(clock(), guid=f"{number:032X}")) for number in range(100)))
    await numbered_after(log, 0, 100)

    async def trim() -> int:
        while await log.trim(0, 0, 7):
            pass
        return (await log.bounds()).floor

    async def read() -> int:
        pages = 0
        for after in range(90, -1, -10):
            try:
                page = await log.read(after, 20, ALL)
            except EventsTrimmed:
                continue
            pages += 1
            assert [number for number, *_ in page.entries] == list(range(after + 1, min(after + 20, 100) + 1))
        return pages

    *pages, floor = await asyncio.gather(*(read() for _ in range(4)), trim())
    assert sum(pages) > 0, "some come before the end of the trimming"
    assert floor == 99
