"""API keys as they are dealt out: what becomes of them in the store, whoever else changes them."""

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


class Rivalled:
    """Keys of which somebody else notes the use, so many times, just before they are changed."""

    def __init__(self, kept: ApiKeyRepository, times: int) -> None:
        self._kept = kept
        self.left = times

    async def get(self, key_id: str, /) -> ApiKey | None:
        return await self._kept.get(key_id)

    async def list(self, after: str, limit: int) -> Sequence[ApiKey]:
        return await self._kept.list(after, limit)

    async def swap(self, old: ApiKey | None, new: ApiKey | None) -> bool:
        if old is not None and self.left:
            self.left -= 1
            used = old.model_copy(update={"used": 1, "version": old.version + 1})
            assert await self._kept.swap(old, used)
        return await self._kept.swap(old, new)


class Deal(NamedTuple):
    """A keyring, and what it keeps its keys in."""

    ring: KeyService
    kept: ApiKeyRepository
    clock: FakeClock

    def against(self, times: int) -> KeyService:
        """Return a keyring that loses so many races."""
        return KeyService(Rivalled(self.kept, times), clock=self.clock)

    async def opens(self, issued: Issued) -> bool:
        """Whether a text opens what is kept now."""
        shown = keys.parse(issued.text)
        assert shown is not None
        return keys.verify(shown, await self.kept.get(issued.key.id), self.clock())


@pytest.fixture(params=["sqlite", "mongo"])
async def deal(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Deal]:
    async with open_keys(request.getfixturevalue(f"{request.param}_url")) as kept:
        yield Deal(KeyService(kept, clock=clock), kept, clock)


async def test_created_key_is_stored_and_valid(deal: Deal) -> None:
    issued = await deal.ring.create("alice", ["write", "read"], expire=deal.clock.seconds + 60)

    assert await deal.ring.get(issued.key.id) == issued.key
    assert (issued.key.owner, issued.key.scopes, issued.key.created) == ("alice", "read write", deal.clock())
    assert await deal.opens(issued)
    deal.clock.advance(seconds=60)
    assert not await deal.opens(issued)


async def test_key_description_has_all_but_the_digests(deal: Deal) -> None:
    issued = await deal.ring.create("alice", ["admin", "write", "read"])
    await deal.ring.rotate(issued.key.id)
    told = deal.ring.describe(await deal.ring.get(issued.key.id))

    assert told == {
        "id": issued.key.id,
        "owner": "alice",
        "scopes": ["read", "write", "admin"],
        "created": str(deal.clock()),
        "state": "live",
    }
    ended = issued.key.model_copy(update={"used": 5, "expire": 7})
    assert deal.ring.describe(ended) == told | {"used": "5", "expire": "7", "state": "expired"}


async def test_key_that_would_never_be_valid_is_not_created(deal: Deal) -> None:
    with pytest.raises(InvalidRequest, match="/expire is in the past"):
        await deal.ring.create("alice", ["read"], expire=deal.clock.seconds)
    for owner, scopes in ((" ", ["read"]), ("a", []), ("a", ["all"])):
        with pytest.raises(ValidationError):
            await deal.ring.create(owner, scopes)
    assert [key async for key in deal.ring.walk()] == []


@pytest.mark.parametrize("count", [0, STRIDE - 1, STRIDE, STRIDE + 1])
async def test_keys_are_listed_by_id(sqlite_url: str, clock: FakeClock, count: int) -> None:
    async with open_keys(sqlite_url) as kept:
        ring = KeyService(kept, clock=clock)
        made = await asyncio.gather(*(ring.create("alice", ["read"]) for _ in range(count)))
        assert [key.id async for key in ring.walk()] == sorted(issued.key.id for issued in made)


async def test_search_for_keys_ends_a_page_after_a_limit(deal: Deal, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no request reads any number of keys; the next page goes on, and a walk finds all."""
    monkeypatch.setattr(key_service, "STRIDE", 2)
    monkeypatch.setattr(key_service, "SCANNED", 4)
    ids = sorted([(await deal.ring.create("a", ["read"])).key.id for _ in range(7)])
    last = await deal.ring.set_note(ids[6], "wanted")

    first = await deal.ring.page("", 5, KeyFilter(text="WANT"))
    assert first == ([], ids[3])
    assert await deal.ring.page(ids[3], 5, KeyFilter(text="WANT")) == ([last], None)
    assert [key async for key in deal.ring.walk(KeyFilter(text="want"))] == [last]
    assert (await deal.ring.page("", 3)).next == ids[2]
    assert (await deal.ring.page(ids[3], 3)).next is None


async def test_revoked_key_is_invalid_and_stays_listed(deal: Deal) -> None:
    """Twice is once."""
    issued = await deal.ring.create("alice", ["read"])
    revoked = await deal.ring.revoke(issued.key.id)

    assert not await deal.opens(issued)
    assert [deal.ring.state_of(key) async for key in deal.ring.walk()] == ["revoked"]
    assert await deal.ring.revoke(issued.key.id) == revoked


async def test_old_secret_of_a_rotated_key_is_valid_for_the_overlap(deal: Deal) -> None:
    first = await deal.ring.create("alice", ["read"])
    second = await deal.ring.rotate(first.key.id, overlap=60)

    assert (second.key.id, second.key.owner, second.key.scopes) == (first.key.id, "alice", "read")
    assert [await deal.opens(each) for each in (first, second)] == [True, True]
    deal.clock.advance(seconds=59.999)
    assert [await deal.opens(each) for each in (first, second)] == [True, True]
    deal.clock.advance(seconds=0.001)
    assert [await deal.opens(each) for each in (first, second)] == [False, True]


async def test_rotation_without_overlap_ends_all_older_secrets(deal: Deal) -> None:
    first = await deal.ring.create("alice", ["read"])
    second = await deal.ring.rotate(first.key.id, overlap=60)
    third = await deal.ring.rotate(first.key.id, overlap=60)
    assert [await deal.opens(each) for each in (first, second, third)] == [False, True, True]
    fourth = await deal.ring.rotate(first.key.id, overlap=0)
    assert [await deal.opens(each) for each in (first, second, third, fourth)] == [False, False, False, True]


async def test_ended_key_cannot_be_rotated(deal: Deal) -> None:
    revoked = await deal.ring.create("alice", ["read"])
    expired = await deal.ring.create("alice", ["read"], expire=deal.clock.seconds + 1)
    await deal.ring.revoke(revoked.key.id)
    deal.clock.advance(seconds=1)

    for issued, why in ((revoked, "was revoked"), (expired, "has expired")):
        before = await deal.kept.get(issued.key.id)
        with pytest.raises(KeyNotActive, match=why):
            await deal.ring.rotate(issued.key.id)
        assert await deal.kept.get(issued.key.id) == before
    assert deal.ring.state_of(await deal.ring.revoke(expired.key.id)) == "revoked"


async def test_unknown_id_is_reported_without_the_secret(deal: Deal) -> None:
    key, text = keys.generate("alice", ["read"], 0)
    for act in (deal.ring.get, deal.ring.revoke, deal.ring.rotate):
        with pytest.raises(NoSuchKey, match=key.id):
            await act(key.id)
        for wrong in (text, "", key.id[:-1], f"{key.id}\n", f"{key.id[:-1]}é"):
            with pytest.raises(NoSuchKey, match="12 letters and digits") as caught:
                await act(wrong)
            assert not wrong or wrong not in str(caught.value)


async def test_lost_race_is_repeated(deal: Deal) -> None:
    """What the other has changed stays."""
    issued = await deal.ring.create("alice", ["read"])
    turned = await deal.against(3).rotate(issued.key.id, overlap=60)
    assert [await deal.opens(each) for each in (issued, turned)] == [True, True]
    revoked = await deal.against(3).revoke(issued.key.id)
    assert (revoked.used, revoked.revoked) == (1, 1)
    assert await deal.kept.get(issued.key.id) == revoked


async def test_lost_races_are_given_up_after_a_limit(deal: Deal) -> None:
    issued = await deal.ring.create("alice", ["read"])
    with pytest.raises(Contention):
        await deal.against(ATTEMPTS).revoke(issued.key.id)
    assert await deal.opens(issued)
