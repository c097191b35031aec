"""The contract of the event log, kept by every store, also behind every cache."""

import asyncio
from collections.abc import Callable

import pytest

from guidsvc.domain.events.cursor import SECRET_BYTES, checksum_of
from guidsvc.domain.events.entry import Entry, Origin
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.record import Record
from guidsvc.errors import EventsTrimmed
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.event_log import PAGE_BYTES
from tests.conftest import FakeClock
from tests.support.events import ALL, changed, entries_after, every_entry, ids, numbered_after, tombstone, until_newest
from tests.support.factories import GUID, USER, record

HOUR = 3600
ORIGIN = Origin("key:4rGcVd0Xq2Lb", "0123456789abcdef")


def overdue(clock: FakeClock, **fields: object) -> Record:
    """Make a record that was written an hour ago and has expired since, so that no host's clock disagrees."""
    written = clock() - HOUR * 1000
    times = {"expire": clock.seconds - 10, "purge_at": clock.seconds + HOUR}
    return record(written, **(times | fields))


async def test_each_write_appends_its_entry(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    created = record(clock(), owner="alice", metadata='{"a":1}')
    updated = changed(created, clock() + 1, user="another", metadata=None)
    renewed = changed(updated, clock() + 2, expire=updated.expire + 5)
    deleted = tombstone(renewed, clock() + 3)
    for old, new in ((None, created), (created, updated), (updated, renewed), (renewed, deleted)):
        assert await store.swap(old, new, origin=ORIGIN)

    entries = await entries_after(database.events, 0, 4)
    of_all = {"guid": GUID, "owner": "alice", "caller": ORIGIN.caller, "request_id": ORIGIN.request_id}
    assert [entry._asdict() | of_all for entry in entries] == [entry._asdict() for entry in entries]
    assert ids(entries) == [
        ("created", created.version),
        ("updated", updated.version),
        ("renewed", renewed.version),
        ("deleted", deleted.version),
    ]
    assert [(entry.user, entry.former_user) for entry in entries] == [
        (USER, None),
        ("another", USER),
        ("another", None),
        ("another", None),
    ]
    assert [entry.changed for entry in entries] == ["", "user,metadata", "expire", ""]
    assert [entry.at for entry in entries] == [clock() + number for number in range(4)]
    assert [(entry.metadata, entry.expire) for entry in entries] == [
        ('{"a":1}', created.expire),
        (None, created.expire),
        (None, renewed.expire),
        (None, renewed.expire),
    ]


async def test_failed_swap_appends_nothing(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    first = record(clock())
    late = (await database.fence.read()).now - 1
    assert await store.swap(None, first)
    assert not await store.swap(None, record(clock(), user="another"))
    assert not await store.swap(record(clock(), version=1), changed(first, clock() + 1))
    assert not await store.swap(first, changed(first, clock() + 1), not_after=late)
    assert not await store.swap(None, record(clock(), guid="0" * 32), not_after=late)
    last = changed(first, clock() + 2, user="last")
    assert await store.swap(first, last)

    assert ids(await entries_after(database.events, 0, 2)) == [("created", first.version), ("updated", last.version)]


async def test_log_numbers_concurrent_writes_without_gap(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    async def write(number: int) -> None:
        current = record(clock(), guid=f"{number:032X}")
        await store.swap(None, current)
        for step in range(1, 4):
            after = changed(current, clock() + step, user=f"user {step}")
            assert await store.swap(current, after)
            current = after

    await asyncio.gather(*(write(number) for number in range(50)))
    numbered = await numbered_after(database.events, 0, 200)

    assert [number for number, _ in numbered] == list(range(1, 201))
    for guid in range(50):
        steps = [entry.user for _, entry in numbered if entry.guid == f"{guid:032X}"]
        assert steps == [USER, "user 1", "user 2", "user 3"]
    assert await database.events.newest() == 200


async def test_revocation_appends_the_expiry_too(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    old = record(clock())
    revoked = changed(old, clock() + 1, expire=clock.seconds - 1)
    await store.swap(None, old)
    await store.swap(old, revoked)

    entries = await entries_after(database.events, 0, 3)
    assert ids(entries)[1:] == [("updated", revoked.version), ("expired", revoked.version)]
    assert entries[1].changed == "expire"
    assert entries[2].at == revoked.expire * 1000


async def test_late_renewal_appends_the_expiry_it_ends(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = overdue(clock)
    renewed = changed(old, clock(), expire=clock.seconds + HOUR)
    await store.swap(None, old)
    await store.swap(old, renewed)
    await database.events.advance(clock(), 100)

    assert ids(await entries_after(database.events, 0, 3)) == [
        ("created", old.version),
        ("expired", old.version),
        ("renewed", renewed.version),
    ]


async def test_write_after_the_scheduler_owes_no_expiry(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = overdue(clock)
    deleted = tombstone(old, clock())
    await store.swap(None, old)
    assert await database.events.advance(clock(), 100) == 1
    await store.swap(old, deleted)

    assert ids(await entries_after(database.events, 0, 3)) == [
        ("created", old.version),
        ("expired", old.version),
        ("deleted", deleted.version),
    ]


async def test_creation_over_retention_appends_its_end(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = overdue(clock, purge_at=clock.seconds - 5)
    new = record(clock(), version=clock() + 1)
    await store.swap(None, old)
    await store.swap(old, new)

    entries = await entries_after(database.events, 0, 4)
    assert ids(entries) == [
        ("created", old.version),
        ("expired", old.version),
        ("purged", old.version),
        ("created", new.version),
    ]
    assert entries[2].at == old.purge_at * 1000


async def test_creation_over_tombstone_owes_nothing(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = record(clock())
    deleted = tombstone(old, clock() + 1)
    new = record(clock() + 2, version=deleted.version + 1)
    for before, after in ((None, old), (old, deleted), (deleted, new)):
        assert await store.swap(before, after)

    assert [kind for kind, _ in ids(await entries_after(database.events, 0, 3))] == ["created", "deleted", "created"]


async def test_expiry_races_with_renewal_and_is_logged_once(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """Whoever comes first, the order of each GUID is: created, expired, renewed."""
    old = [overdue(clock, guid=f"{number:032X}") for number in range(60)]
    await asyncio.gather(*(store.swap(None, each) for each in old))

    async def advance() -> None:
        while await database.events.advance(clock(), 7):
            await asyncio.sleep(0)

    await asyncio.gather(
        advance(),
        *(store.swap(each, changed(each, clock(), expire=clock.seconds + HOUR)) for each in old),
        advance(),
    )
    entries = await entries_after(database.events, 0, 180)

    assert len(entries) == 180
    for each in old:
        kinds = [entry.kind for entry in entries if entry.guid == each.guid]
        assert kinds == ["created", "expired", "renewed"]


async def test_advance_appends_each_step_once(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    dead = overdue(clock)
    gone = overdue(clock, guid="0" * 32, purge_at=clock.seconds - 5)
    alive = record(clock(), guid="1" * 32)
    for each in (dead, gone, alive):
        await store.swap(None, each)
    await asyncio.gather(*(database.events.advance(clock(), 100) for _ in range(4)))

    entries = await entries_after(database.events, 0, 6)
    assert sorted((entry.kind, entry.guid) for entry in entries if entry.kind != "created") == [
        ("expired", gone.guid),
        ("expired", dead.guid),
        ("purged", gone.guid),
    ]
    assert await database.events.lag(clock()) == 0
    assert await store.get(alive.guid) == alive


async def test_lag_is_that_of_the_oldest_step(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    assert await database.events.lag(clock()) == 0
    written = clock() - HOUR * 1000
    await store.swap(None, record(written, expire=clock.seconds - 1000, purge_at=clock.seconds + HOUR))
    await store.swap(None, record(written, guid="0" * 32, expire=clock.seconds - 100, purge_at=clock.seconds + HOUR))

    assert await database.events.lag(clock()) >= 900  # the warning was due before the expiry
    while await database.events.advance(clock(), 10):
        pass
    assert await database.events.lag(clock()) == 0


async def test_page_continues_after_any_entry(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    for number in range(10):
        await store.swap(None, record(clock(), guid=f"{number:032X}"))
    await numbered_after(database.events, 0, 10)

    for after in range(11):
        page = await database.events.read(after, 4, ALL)
        assert [number for number, _ in page.entries] == list(range(after + 1, min(after + 4, 10) + 1))
        assert page.looked_to == min(after + 4, 10)
        assert page.looked_to_checksum == await database.events.checksum(page.looked_to)
        assert page.newest == 10


KEPT: list[tuple[EventSelection, Callable[[Entry], bool]]] = [
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


@pytest.mark.parametrize(("selection", "is_kept"), KEPT, ids=range(len(KEPT)))
async def test_page_holds_its_selection(
    store: RecordRepository,
    database: Database,
    clock: FakeClock,
    selection: EventSelection,
    is_kept: Callable[[Entry], bool],
) -> None:
    for number in range(6):
        old = record(clock(), guid=f"{number:032X}", owner="alice" if number % 2 else "")
        await store.swap(None, old)
        await store.swap(old, changed(old, clock() + 1, user='it\'s "x" $1'))
    numbered = await numbered_after(database.events, 0, 12)
    expected = [each for each in numbered if is_kept(each.entry)]

    page = await database.events.read(0, 100, selection)
    assert list(page.entries) == expected
    assert page.looked_to == 12, "also where the last entries do not match"
    assert [each for each in numbered if selection.matches(each.entry)] == expected
    first = await database.events.read(0, 1, selection)
    assert list(first.entries) == expected[:1]
    assert first.looked_to == (expected[0].number if expected else 12)


async def test_page_is_bounded_in_bytes(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    metadata = '{"a":"' + "x" * 16_000 + '"}'
    count = PAGE_BYTES // 16_000 + 20
    await asyncio.gather(
        *(store.swap(None, record(clock(), guid=f"{number:032X}", metadata=metadata)) for number in range(count))
    )
    await until_newest(database.events, count)

    page = await database.events.read(0, 10_000, ALL)
    size = sum(len(entry.metadata or "") for _, entry in page.entries)
    assert PAGE_BYTES - 17_000 <= size <= PAGE_BYTES + 17_000
    assert page.looked_to == page.entries[-1].number < count
    assert len(await every_entry(database.events)) == count


async def test_checksums_name_entries(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    log = database.events
    empty = await log.bounds()
    assert (empty.floor, empty.floor_checksum, empty.newest, empty.newest_checksum) == (0, 0, 0, 0)
    assert 0 <= empty.key.epoch < 2**32
    assert len(empty.key.secret) == SECRET_BYTES
    assert (await log.checksum(0), await log.checksum(1)) == (0, None)
    for number in range(3):
        await store.swap(None, record(clock(), guid=f"{number:032X}"))
    numbered = await numbered_after(log, 0, 3)

    assert [await log.checksum(number) for number, _ in numbered] == [checksum_of(entry.id) for _, entry in numbered]
    assert await log.checksum(4) is None
    bounds = await log.bounds()
    assert bounds == (empty.key, 0, 0, 3, checksum_of(numbered[-1].entry.id))


async def test_history_goes_back_through_one_guid(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    current = record(clock())
    await store.swap(None, current)
    for step in range(1, 5):
        await store.swap(None, record(clock(), guid=f"{step:032X}"))
        after = changed(current, clock() + step, user=f"user {step}")
        await store.swap(current, after)
        current = after
    own = [number for number, entry in reversed(await numbered_after(database.events, 0, 9)) if entry.guid == GUID]

    assert [number for number, _ in await database.events.history(GUID, 100, 100)] == own
    assert [number for number, _ in await database.events.history(GUID, 100, 2)] == own[:2]
    assert [number for number, _ in await database.events.history(GUID, own[1], 2)] == own[2:4]
    assert [number for number, _ in await database.events.history(GUID, own[2] + 1, 2)] == own[2:4]
    assert [number for number, _ in await database.events.history(GUID, own[-1], 2)] == []
    assert await database.events.history("F" * 32, 100, 2) == []


async def test_trim_cuts_off_the_oldest_and_never_the_newest(
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
    assert (bounds.floor, bounds.floor_checksum) == (4, checksum_of(numbered[3].entry.id))
    assert (await log.checksum(4), await log.checksum(3)) == (bounds.floor_checksum, None)
    assert [number for number, _ in (await log.read(4, 100, ALL)).entries] == list(range(5, 11))
    with pytest.raises(EventsTrimmed):
        await log.read(3, 100, ALL)

    in_an_hour = clock() + HOUR * 1000
    assert await log.trim(in_an_hour, 2**40, 500) == 5
    assert await log.trim(in_an_hour, 0, 500) == 0
    assert [number for number, _ in (await log.read(9, 100, ALL)).entries] == [10]
    assert (await log.size())[0] > 0
    assert await store.swap(None, record(clock(), guid="F" * 32))
    assert [number for number, _ in await numbered_after(log, 9, 2)] == [10, 11]


async def test_age_of_an_entry_counts_from_its_append(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """An expiry that is logged late is kept for the whole retention."""
    log = database.events
    old = overdue(clock, expire=clock.seconds - 60)
    await store.swap(None, old)
    assert await log.advance(clock(), 100) == 1
    for count, guid in (3, "0" * 32), (4, "1" * 32):  # the last waits until the outboxes of the others are empty
        await store.swap(None, record(clock(), guid=guid))
        await numbered_after(log, 0, count)

    a_retention_ago = clock() - 30_000
    await log.trim(a_retention_ago, 2**40, 500)
    kept = [(entry.kind, entry.guid) for _, entry in await every_entry(log)]
    assert set(kept) >= {("expired", GUID), ("created", "0" * 32), ("created", "1" * 32)}
    assert (await log.size())[1] >= a_retention_ago


async def test_page_is_whole_while_the_log_is_trimmed(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """A page has no hole: it is whole, or EventsTrimmed."""
    log = database.events
    await asyncio.gather(*(store.swap(None, record(clock(), guid=f"{number:032X}")) for number in range(300)))
    await numbered_after(log, 0, 300)

    async def trim() -> int:
        while await log.trim(0, 0, 7):
            pass
        return (await log.bounds()).floor

    async def read() -> int:
        pages = 0
        for after in range(290, -1, -10):
            try:
                page = await log.read(after, 20, ALL)
            except EventsTrimmed:
                continue
            pages += 1
            assert [number for number, _ in page.entries] == list(range(after + 1, min(after + 20, 300) + 1))
        return pages

    *pages, floor = await asyncio.gather(*(read() for _ in range(4)), trim())
    assert min(pages) > 0
    assert floor == 299
