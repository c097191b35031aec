"""The API key service over real stores, also while other writers change the keys."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import pytest
from pydantic import ValidationError

from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import ApiKey, KeyFilter
from guidsvc.errors import Contention, InvalidRequest, KeyNotActive, NoSuchKey
from guidsvc.services import key_service
from guidsvc.services.key_service import ATTEMPTS, STRIDE, Issued, KeyService
from guidsvc.store import open_keys
from guidsvc.store.contract import ApiKeyRepository
from tests.conftest import FakeClock


class RacingKeyRepository:
    """A key repository in which another writer records a use just before each of the first `times` changes."""

    def __init__(self, keys_: ApiKeyRepository, times: int) -> None:
        self._keys = keys_
        self.races = times

    async def get(self, key_id: str, /) -> ApiKey | None:
        return await self._keys.get(key_id)

    async def list(self, after: str, limit: int) -> Sequence[ApiKey]:
        return await self._keys.list(after, limit)

    async def swap(self, old: ApiKey | None, new: ApiKey | None) -> bool:
        if old is not None and self.races:
            self.races -= 1
            used = old.model_copy(update={"used": 1, "version": old.version + 1})
            assert await self._keys.swap(old, used)
        return await self._keys.swap(old, new)


class KeySetup(NamedTuple):
    """A key service, its repository and its clock."""

    service: KeyService
    keys: ApiKeyRepository
    clock: FakeClock

    def racing_service(self, times: int) -> KeyService:
        """Return a key service that loses this many races."""
        return KeyService(RacingKeyRepository(self.keys, times), clock=self.clock)

    async def is_valid(self, issued: Issued) -> bool:
        """Return whether the text is valid for the stored key."""
        presented = keys.parse(issued.text)
        assert presented is not None
        return keys.verify(presented, await self.keys.get(issued.key.id), self.clock())


@pytest.fixture(params=["sqlite", "mongo"])
async def setup(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[KeySetup]:
    async with open_keys(request.getfixturevalue(f"{request.param}_url")) as keys_:
        yield KeySetup(KeyService(keys_, clock=clock), keys_, clock)


async def test_created_key_is_stored_and_valid(setup: KeySetup) -> None:
    issued = await setup.service.create("alice", ["write", "read"], expire=setup.clock.seconds + 60)

    assert await setup.service.get(issued.key.id) == issued.key
    assert (issued.key.owner, issued.key.scopes, issued.key.created) == ("alice", "read write", setup.clock())
    assert await setup.is_valid(issued)
    setup.clock.advance(seconds=60)
    assert not await setup.is_valid(issued)


async def test_key_description_has_all_but_the_digests(setup: KeySetup) -> None:
    issued = await setup.service.create("alice", ["admin", "write", "read"])
    await setup.service.rotate(issued.key.id)
    description = setup.service.describe(await setup.service.get(issued.key.id))

    assert description == {
        "id": issued.key.id,
        "owner": "alice",
        "scopes": ["read", "write", "admin"],
        "created": str(setup.clock()),
        "state": "live",
    }
    ended = issued.key.model_copy(update={"used": 5, "expire": 7})
    assert setup.service.describe(ended) == description | {"used": "5", "expire": "7", "state": "expired"}


async def test_key_that_would_never_be_valid_is_not_created(setup: KeySetup) -> None:
    with pytest.raises(InvalidRequest, match="/expire is in the past"):
        await setup.service.create("alice", ["read"], expire=setup.clock.seconds)
    for owner, scopes in ((" ", ["read"]), ("a", []), ("a", ["all"])):
        with pytest.raises(ValidationError):
            await setup.service.create(owner, scopes)
    assert [key async for key in setup.service.walk()] == []


@pytest.mark.parametrize("count", [0, STRIDE - 1, STRIDE, STRIDE + 1])
async def test_keys_are_listed_by_id(sqlite_url: str, clock: FakeClock, count: int) -> None:
    async with open_keys(sqlite_url) as keys_:
        service = KeyService(keys_, clock=clock)
        created = await asyncio.gather(*(service.create("alice", ["read"]) for _ in range(count)))
        assert [key.id async for key in service.walk()] == sorted(issued.key.id for issued in created)


async def test_search_for_keys_ends_a_page_after_a_limit(setup: KeySetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request reads a bounded number of keys; the next page continues, and a walk finds all matches."""
    monkeypatch.setattr(key_service, "STRIDE", 2)
    monkeypatch.setattr(key_service, "SCANNED", 4)
    ids = sorted([(await setup.service.create("a", ["read"])).key.id for _ in range(7)])
    match = await setup.service.set_note(ids[6], "wanted")

    page = await setup.service.page("", 5, KeyFilter(text="WANT"))
    assert page == ([], ids[3])
    assert await setup.service.page(ids[3], 5, KeyFilter(text="WANT")) == ([match], None)
    assert [key async for key in setup.service.walk(KeyFilter(text="want"))] == [match]
    assert (await setup.service.page("", 3)).next == ids[2]
    assert (await setup.service.page(ids[3], 3)).next is None


async def test_revoked_key_is_invalid_and_stays_listed(setup: KeySetup) -> None:
    """A second revocation changes nothing."""
    issued = await setup.service.create("alice", ["read"])
    revoked = await setup.service.revoke(issued.key.id)

    assert not await setup.is_valid(issued)
    assert [setup.service.state_of(key) async for key in setup.service.walk()] == ["revoked"]
    assert await setup.service.revoke(issued.key.id) == revoked


async def test_old_secret_of_a_rotated_key_is_valid_for_the_overlap(setup: KeySetup) -> None:
    first = await setup.service.create("alice", ["read"])
    second = await setup.service.rotate(first.key.id, overlap=60)

    assert (second.key.id, second.key.owner, second.key.scopes) == (first.key.id, "alice", "read")
    assert [await setup.is_valid(each) for each in (first, second)] == [True, True]
    setup.clock.advance(seconds=59.999)
    assert [await setup.is_valid(each) for each in (first, second)] == [True, True]
    setup.clock.advance(seconds=0.001)
    assert [await setup.is_valid(each) for each in (first, second)] == [False, True]


async def test_rotation_without_overlap_ends_all_older_secrets(setup: KeySetup) -> None:
    first = await setup.service.create("alice", ["read"])
    second = await setup.service.rotate(first.key.id, overlap=60)
    third = await setup.service.rotate(first.key.id, overlap=60)
    assert [await setup.is_valid(each) for each in (first, second, third)] == [False, True, True]
    fourth = await setup.service.rotate(first.key.id, overlap=0)
    assert [await setup.is_valid(each) for each in (first, second, third, fourth)] == [False, False, False, True]


async def test_ended_key_cannot_be_rotated(setup: KeySetup) -> None:
    revoked = await setup.service.create("alice", ["read"])
    expired = await setup.service.create("alice", ["read"], expire=setup.clock.seconds + 1)
    await setup.service.revoke(revoked.key.id)
    setup.clock.advance(seconds=1)

    for issued, reason in ((revoked, "was revoked"), (expired, "has expired")):
        stored = await setup.keys.get(issued.key.id)
        with pytest.raises(KeyNotActive, match=reason):
            await setup.service.rotate(issued.key.id)
        assert await setup.keys.get(issued.key.id) == stored
    assert setup.service.state_of(await setup.service.revoke(expired.key.id)) == "revoked"


async def test_unknown_id_is_reported_without_the_secret(setup: KeySetup) -> None:
    key, text = keys.generate("alice", ["read"], 0)
    for operation in (setup.service.get, setup.service.revoke, setup.service.rotate):
        with pytest.raises(NoSuchKey, match=key.id):
            await operation(key.id)
        for invalid_id in (text, "", key.id[:-1], f"{key.id}\n", f"{key.id[:-1]}é"):
            with pytest.raises(NoSuchKey, match="12 letters and digits") as error:
                await operation(invalid_id)
            assert not invalid_id or invalid_id not in str(error.value)


async def test_lost_race_is_repeated(setup: KeySetup) -> None:
    """The change of the other writer is preserved."""
    issued = await setup.service.create("alice", ["read"])
    rotated = await setup.racing_service(3).rotate(issued.key.id, overlap=60)
    assert [await setup.is_valid(each) for each in (issued, rotated)] == [True, True]
    revoked = await setup.racing_service(3).revoke(issued.key.id)
    assert (revoked.used, revoked.revoked) == (1, 1)
    assert await setup.keys.get(issued.key.id) == revoked


async def test_lost_races_are_given_up_after_a_limit(setup: KeySetup) -> None:
    issued = await setup.service.create("alice", ["read"])
    with pytest.raises(Contention):
        await setup.racing_service(ATTEMPTS).revoke(issued.key.id)
    assert await setup.is_valid(issued)
