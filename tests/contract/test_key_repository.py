"""The contract of API key repositories, also beside a service that owns the records."""

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
    """The URL of an empty store of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def key_repository(url: str) -> AsyncIterator[ApiKeyRepository]:
    async with open_store(url, exclusive=False) as store:
        yield store.api_keys


def new_key(clock: FakeClock, **fields: object) -> ApiKey:
    key, _ = keys.generate("alice", ["read", "write"], clock())
    return key.model_copy(update=fields)


async def test_key_is_stored_as_put_and_changed_by_version(key_repository: ApiKeyRepository, clock: FakeClock) -> None:
    first = new_key(clock)
    second, _ = keys.rotated(first.model_copy(update={"expire": clock.seconds, "used": clock(), "revoked": 1}), clock())

    assert await key_repository.get(first.id) is None
    assert await key_repository.swap(None, first)
    assert not await key_repository.swap(None, second)
    assert await key_repository.get(first.id) == first
    assert await key_repository.swap(first, second)
    assert not await key_repository.swap(first, None)
    assert await key_repository.get(first.id) == second
    assert await key_repository.swap(second, None)
    assert await key_repository.get(first.id) is None


async def test_lifetime_limits_are_stored(key_repository: ApiKeyRepository, clock: FakeClock) -> None:
    for limits in ({"max_ttl": 60}, {"max_life": MAX_TIME}, {"max_ttl": 60, "max_life": 120}):
        key = new_key(clock).model_copy(update={**limits})
        assert await key_repository.swap(None, key)
        assert await key_repository.get(key.id) == key


async def test_note_is_stored_and_can_be_removed(key_repository: ApiKeyRepository, clock: FakeClock) -> None:
    first = new_key(clock, note="n" * 200)
    second = first.model_copy(update={"note": None, "version": 2})

    assert await key_repository.swap(None, first)
    assert await key_repository.get(first.id) == first
    assert await key_repository.swap(first, second)
    assert await key_repository.get(first.id) == second
    assert list(await key_repository.list("", 2)) == [second]


async def test_one_of_fifty_racing_key_changes_wins(key_repository: ApiKeyRepository, clock: FakeClock) -> None:
    old = new_key(clock)
    await key_repository.swap(None, old)
    rivals = [old.model_copy(update={"used": number, "version": 2}) for number in range(50)]

    results = await asyncio.gather(*(key_repository.swap(old, rival) for rival in rivals))

    assert results.count(True) == 1
    assert await key_repository.get(old.id) == rivals[results.index(True)]


async def test_keys_are_listed_by_id(key_repository: ApiKeyRepository, clock: FakeClock) -> None:
    ordered = sorted((new_key(clock) for _ in range(7)), key=lambda key: key.id)
    await asyncio.gather(*(key_repository.swap(None, key) for key in reversed(ordered)))

    assert list(await key_repository.list("", 100)) == ordered
    assert list(await key_repository.list(ordered[2].id, 3)) == ordered[3:6]
    assert list(await key_repository.list(ordered[-1].id, 3)) == []


async def test_keys_can_change_while_a_service_owns_the_records(url: str, clock: FakeClock) -> None:
    async with open_store(url, exclusive=True) as store:
        name = await store.store_id()
        async with open_keys(url) as key_repository:
            assert await key_repository.swap(None, key := new_key(clock))
            assert await store.api_keys.get(key.id) == key
        assert await store.store_id() == name


async def test_missing_key_support_is_reported_in_one_line() -> None:
    for url in ("nothing://", "sqlite:////none/such/folder/a.db"):
        with pytest.raises(StartError, match="store_url: "):
            async with open_keys(url):
                pass
