"""Steps of a trim of the event log in SQLite: bounded in bytes, because writes wait for their transactions."""

from itertools import count

import pytest

from guidsvc.store.contract import Database
from guidsvc.store.sqlite.events.trimming import TRIM_BYTES
from tests.conftest import FakeClock
from tests.support.factories import record

EVENT_BYTES = 17 * 1024
"""More than an event takes here."""
LIMIT = 500
_METADATA = '{"a":"' + "x" * (16 * 1000) + '"}'
_guids = count()


async def fill(store: Database, clock: FakeClock, owners: str, number: int) -> None:
    """Create so many GUIDs with much metadata for each owner, a character each."""
    for owner in owners:
        for _ in range(number):
            new = record(clock(), guid=f"{next(_guids):032X}", owner=owner.strip(), metadata=_METADATA)
            assert await store.records.swap(None, new)


async def removed_bytes(store: Database, before: int, size_bytes: int) -> list[int]:
    """Trim the log until nothing is left to do; return how many bytes of the log each step removed."""
    removed, (left, _) = [], await store.events.size()
    while count := await store.events.trim(before, size_bytes, LIMIT):
        last, (left, _) = left, await store.events.size()
        removed.append(last - left)
        if count < LIMIT:
            break
    assert left <= size_bytes
    return removed


@pytest.mark.parametrize("owners", [" ", "ab"])
@pytest.mark.parametrize("is_old", [False, True])
async def test_trim_of_large_events_takes_several_steps(
    store: Database, clock: FakeClock, owners: str, is_old: bool
) -> None:
    await fill(store, clock, owners, 4 * TRIM_BYTES // EVENT_BYTES // len(owners))
    total, _ = await store.events.size()
    removed = await removed_bytes(store, clock() + 1 if is_old else 0, total if is_old else EVENT_BYTES)
    assert max(removed) < TRIM_BYTES + EVENT_BYTES
    assert len(removed) >= 3, "a step must not be much smaller than it may be"
    assert sum(removed) > total - 2 * EVENT_BYTES


async def test_archive_of_large_events_is_trimmed_in_steps(store: Database, clock: FakeClock) -> None:
    await fill(store, clock, "b", 2 * TRIM_BYTES // EVENT_BYTES)
    await fill(store, clock, "a", 6 * TRIM_BYTES // EVENT_BYTES)
    await removed_bytes(store, 0, 4 * TRIM_BYTES)
    assert (await store.events.bounds("b")).floor < (await store.events.bounds()).floor, "the archive is empty"
    removed = await removed_bytes(store, 0, EVENT_BYTES)
    assert max(removed) < TRIM_BYTES + EVENT_BYTES
