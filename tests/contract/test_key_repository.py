"""What a store keeps of API keys, beside a service that has the records for itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.record import MAX_TIME
from guidsvc.errors import StartError
from guidsvc.store import open_keys, open_store
from guidsvc.store.contract import ApiKeyRepository
from tests.conftest import FakeClock

STORES = ["sqlite", "mongo"]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    """An empty store of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def kept(url: str) -> AsyncIterator[ApiKeyRepository]:
    async with open_store(url, exclusive=False) as store:
        yield store.api_keys


def drawn(clock: FakeClock, **fields: object) -> ApiKey:
    key, _ = keys.generate("alice", ["read", "write"], clock())
    return key.model_copy(update=fields)


async def test_key_is_stored_as_put_and_changed_by_version(kept: ApiKeyRepository, clock: FakeClock) -> None:
    first = drawn(clock)
    second, _ = keys.rotated(first.model_copy(update={"expire": clock.seconds, "used": clock(), "revoked": 1}), clock())

    assert await kept.get(first.id) is None
    assert await kept.swap(None, first)
    assert not await kept.swap(None, second)
    assert await kept.get(first.id) == first
    assert await kept.swap(first, second)
    assert not await kept.swap(first, None)
    assert await kept.get(first.id) == second
    assert await kept.swap(second, None)
    assert await kept.get(first.id) is None


async def test_limits_of_a_life_are_kept(kept: ApiKeyRepository, clock: FakeClock) -> None:
    for limits in ({"max_ttl": 60}, {"max_life": MAX_TIME}, {"max_ttl": 60, "max_life": 120}):
        key = drawn(clock).model_copy(update={**limits})
        assert await kept.swap(None, key)
        assert await kept.get(key.id) == key


async def test_note_is_kept_and_can_be_removed(kept: ApiKeyRepository, clock: FakeClock) -> None:
    first = drawn(clock, note="n" * 200)
    second = first.model_copy(update={"note": None, "version": 2})

    assert await kept.swap(None, first)
    assert await kept.get(first.id) == first
    assert await kept.swap(first, second)
    assert await kept.get(first.id) == second
    assert list(await kept.list("", 2)) == [second]


async def test_one_of_fifty_racing_key_changes_wins(kept: ApiKeyRepository, clock: FakeClock) -> None:
    old = drawn(clock)
    await kept.swap(None, old)
    rivals = [old.model_copy(update={"used": number, "version": 2}) for number in range(50)]

    won = await asyncio.gather(*(kept.swap(old, rival) for rival in rivals))

    assert won.count(True) == 1
    assert await kept.get(old.id) == rivals[won.index(True)]


async def test_keys_are_listed_by_id(kept: ApiKeyRepository, clock: FakeClock) -> None:
    every = sorted((drawn(clock) for _ in range(7)), key=lambda key: key.id)
    await asyncio.gather(*(kept.swap(None, key) for key in reversed(every)))

    assert list(await kept.list("", 100)) == every
    assert list(await kept.list(every[2].id, 3)) == every[3:6]
    assert list(await kept.list(every[-1].id, 3)) == []


async def test_keys_can_change_while_a_service_owns_the_records(url: str, clock: FakeClock) -> None:
    async with open_store(url, exclusive=True) as served:
        name = await served.store_id()
        async with open_keys(url) as beside:
            assert await beside.swap(None, key := drawn(clock))
            assert await served.api_keys.get(key.id) == key
        assert await served.store_id() == name


async def test_missing_key_support_is_reported_in_one_line() -> None:
    for url in ("nothing://", "sqlite:////none/such/folder/a.db"):
        with pytest.raises(StartError, match="store_url: "):
            async with open_keys(url):
                pass
