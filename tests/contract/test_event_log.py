"""The contract of the event log, for every store and cache: the entries that writes and time append."""

import asyncio

from guidsvc.domain.events.entry import Origin
from guidsvc.store.contract import Database, RecordRepository
from tests.conftest import FakeClock
from tests.support.events import (
    HOUR,
    entries_after,
    expired_record,
    kinds_and_versions,
    next_version,
    numbered_after,
    tombstone,
)
from tests.support.factories import GUID, USER, record

ORIGIN = Origin("key:4rGcVd0Xq2Lb", "0123456789abcdef")


async def test_each_write_appends_its_entry(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    created = record(clock(), owner="alice", metadata='{"a":1}')
    updated = next_version(created, clock() + 1, user="another", metadata=None)
    renewed = next_version(updated, clock() + 2, expire=updated.expire + 5)
    deleted = tombstone(renewed, clock() + 3)
    for old, new in ((None, created), (created, updated), (updated, renewed), (renewed, deleted)):
        assert await store.swap(old, new, origin=ORIGIN)

    entries = await entries_after(database.events, 0, 4)
    of_all = {"guid": GUID, "owner": "alice", "caller": ORIGIN.caller, "request_id": ORIGIN.request_id}
    assert [entry._asdict() | of_all for entry in entries] == [entry._asdict() for entry in entries]
    assert kinds_and_versions(entries) == [
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
    assert not await store.swap(record(clock(), version=1), next_version(first, clock() + 1))
    assert not await store.swap(first, next_version(first, clock() + 1), not_after=late)
    assert not await store.swap(None, record(clock(), guid="0" * 32), not_after=late)
    last = next_version(first, clock() + 2, user="last")
    assert await store.swap(first, last)

    assert kinds_and_versions(await entries_after(database.events, 0, 2)) == [
        ("created", first.version),
        ("updated", last.version),
    ]


async def test_log_numbers_concurrent_writes_without_gap(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    async def write(number: int) -> None:
        current = record(clock(), guid=f"{number:032X}")
        await store.swap(None, current)
        for step in range(1, 4):
            after = next_version(current, clock() + step, user=f"user {step}")
            assert await store.swap(current, after)
            current = after

    await asyncio.gather(*(write(number) for number in range(50)))
    numbered = await numbered_after(database.events, 0, 200)

    assert [number for number, *_ in numbered] == list(range(1, 201))
    for guid in range(50):
        steps = [entry.user for _, entry, _ in numbered if entry.guid == f"{guid:032X}"]
        assert steps == [USER, "user 1", "user 2", "user 3"]
    assert await database.events.newest() == 200


async def test_revocation_appends_the_expiry_too(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    old = record(clock())
    revoked = next_version(old, clock() + 1, expire=clock.seconds - 1)
    await store.swap(None, old)
    await store.swap(old, revoked)

    entries = await entries_after(database.events, 0, 3)
    assert kinds_and_versions(entries)[1:] == [("updated", revoked.version), ("expired", revoked.version)]
    assert entries[1].changed == "expire"
    assert entries[2].at == revoked.expire * 1000


async def test_late_renewal_appends_the_expiry_before_it(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = expired_record(clock)
    renewed = next_version(old, clock(), expire=clock.seconds + HOUR)
    await store.swap(None, old)
    await store.swap(old, renewed)
    await database.events.advance(clock(), 100)

    assert kinds_and_versions(await entries_after(database.events, 0, 3)) == [
        ("created", old.version),
        ("expired", old.version),
        ("renewed", renewed.version),
    ]


async def test_write_after_the_scheduler_appends_no_expiry(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = expired_record(clock)
    deleted = tombstone(old, clock())
    await store.swap(None, old)
    assert await database.events.advance(clock(), 100) == 1
    await store.swap(old, deleted)

    assert kinds_and_versions(await entries_after(database.events, 0, 3)) == [
        ("created", old.version),
        ("expired", old.version),
        ("deleted", deleted.version),
    ]


async def test_creation_after_retention_appends_expiry_and_purge(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = expired_record(clock, purge_at=clock.seconds - 5)
    new = record(clock(), version=clock() + 1)
    await store.swap(None, old)
    await store.swap(old, new)

    entries = await entries_after(database.events, 0, 4)
    assert kinds_and_versions(entries) == [
        ("created", old.version),
        ("expired", old.version),
        ("purged", old.version),
        ("created", new.version),
    ]
    assert entries[2].at == old.purge_at * 1000


async def test_renewal_decided_before_the_purge_fails_after_it(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """Otherwise a GUID would be valid again whose purge is in the log."""
    old = expired_record(clock, purge_at=clock.seconds - 5)
    decided_at = (old.purge_at - 1) * 1000
    late = next_version(old, decided_at, expire=clock.seconds + HOUR, purge_at=clock.seconds + 2 * HOUR)
    deleted = tombstone(old, decided_at)
    await store.swap(None, old)
    await database.events.advance(clock(), 10)

    assert not await store.swap(old, late)
    assert not await store.swap(old, deleted)
    assert [kind for kind, _ in kinds_and_versions(await entries_after(database.events, 0, 3))] == [
        "created",
        "expired",
        "purged",
    ]


async def test_creation_over_a_tombstone_appends_only_itself(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old = record(clock())
    deleted = tombstone(old, clock() + 1)
    new = record(clock() + 2, version=deleted.version + 1)
    for before, after in ((None, old), (old, deleted), (deleted, new)):
        assert await store.swap(before, after)

    assert [kind for kind, _ in kinds_and_versions(await entries_after(database.events, 0, 3))] == [
        "created",
        "deleted",
        "created",
    ]


async def test_expiry_races_with_renewal_and_is_logged_once(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """Whichever wins, the order of each GUID is: created, expired, renewed."""
    old = [expired_record(clock, guid=f"{number:032X}") for number in range(60)]
    await asyncio.gather(*(store.swap(None, each) for each in old))

    async def advance() -> None:
        while await database.events.advance(clock(), 7):
            await asyncio.sleep(0)

    await asyncio.gather(
        advance(),
        *(store.swap(each, next_version(each, clock(), expire=clock.seconds + HOUR)) for each in old),
        advance(),
    )
    entries = await entries_after(database.events, 0, 180)

    assert len(entries) == 180
    for each in old:
        kinds = [entry.kind for entry in entries if entry.guid == each.guid]
        assert kinds == ["created", "expired", "renewed"]


async def test_advance_appends_each_step_once(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    dead = expired_record(clock)
    gone = expired_record(clock, guid="0" * 32, purge_at=clock.seconds - 5)
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


async def test_lag_is_the_age_of_the_oldest_due_step(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    assert await database.events.lag(clock()) == 0
    written = clock() - HOUR * 1000
    await store.swap(None, record(written, expire=clock.seconds - 1000, purge_at=clock.seconds + HOUR))
    await store.swap(None, record(written, guid="0" * 32, expire=clock.seconds - 100, purge_at=clock.seconds + HOUR))

    assert await database.events.lag(clock()) >= 900  # the warning was due before the expiry
    while await database.events.advance(clock(), 10):
        pass
    assert await database.events.lag(clock()) == 0
