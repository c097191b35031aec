"""API keys through the client, and what a key may do."""

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from guidsvc_client import Forbidden, KeyEnded, NotFound, QuotaExceeded, RecordWithheld, Unauthorized
from tests.support.client_in_thread import client_of
from tests.support.guarded_service import GuardedService, guarded_service


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedService]:
    folder = tmp_path_factory.mktemp("guarded")
    with guarded_service(folder, "--quota", "2", "--rate-limit", "10000/second") as started:
        yield started


@pytest.fixture
async def admin(kind: str, guarded: GuardedService) -> AsyncIterator[Any]:
    async with client_of(kind, guarded.service.url, key=guarded.key) as client:
        yield client


async def test_key_is_created_described_and_revoked(admin: Any) -> None:
    expire = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    issued = await admin.keys.create("alice", {"read", "write"}, expire=expire, note="cron on db-3", max_ttl=3600)
    described = await admin.keys.get(issued.id)

    assert issued.key.startswith("gs_")
    assert issued.key not in repr(issued)
    assert (described.owner, set(described.scopes), described.note) == ("alice", {"read", "write"}, "cron on db-3")
    assert (described.expire, described.max_ttl, described.state) == (expire.timestamp(), 3600, "live")
    await admin.keys.revoke(issued.id)
    assert (await admin.keys.get(issued.id)).state == "revoked"
    with pytest.raises(KeyEnded):
        await admin.keys.rotate(issued.id)


async def test_keys_are_listed_by_owner_and_note(admin: Any) -> None:
    owner = f"owner {time.time_ns()}"
    first, second = [await admin.keys.create(owner, ["read"], note=note) for note in ("one", "two")]

    assert {key.id async for key in admin.keys.list(owner=owner)} == {first.id, second.id}
    assert [key.id async for key in admin.keys.list(owner=owner, q="tw", state="live")] == [second.id]
    assert (await admin.keys.set_note(second.id, None)).note is None


async def test_rotated_key_has_a_new_secret(admin: Any, kind: str, guarded: GuardedService) -> None:
    issued = await admin.keys.create("alice", ["read"])
    rotated = await admin.keys.rotate(issued.id, overlap=timedelta(0))

    assert rotated.key != issued.key
    async with client_of(kind, guarded.service.url, key=rotated.key) as client:
        assert (await client.whoami()).id == issued.id


async def test_identity_tells_what_is_left(admin: Any, kind: str, guarded: GuardedService) -> None:
    issued = await admin.keys.create(f"bob {kind}", ["read", "write"], note="mine")
    async with client_of(kind, guarded.service.url, key=issued.key) as client:
        await client.create(user="a")
        own = await client.whoami()
        assert (own.access, own.id, own.owner, own.note) == ("keys", issued.id, f"bob {kind}", "mine")
        assert own.rate["limit"] == 10_000
        assert (own.quota["limit"], own.quota["live"]) == (2, 1)
        await client.create(user="a")
        with pytest.raises(QuotaExceeded):
            await client.create(user="a")
        with pytest.raises(Forbidden):
            await client.delete("0" * 32)


async def test_key_that_may_only_write_gets_no_record(admin: Any, kind: str, guarded: GuardedService) -> None:
    issued = await admin.keys.create(f"writer {kind}", ["write"])
    async with client_of(kind, guarded.service.url, key=issued.key) as client:
        made = await client.create(user="a")
        with pytest.raises(RecordWithheld) as withheld:
            await client.put(made.guid, user="b")
        with pytest.raises(RecordWithheld):
            await client.renew(made.guid, ttl=10**8)
    changed = await admin.get(made.guid)
    assert (changed.user, withheld.value.version < changed.version) == ("b", True)


async def test_lease_without_the_scope_delete_is_revoked(admin: Any, kind: str, guarded: GuardedService) -> None:
    issued = await admin.keys.create(f"worker {kind}", ["read", "write"])
    async with client_of(kind, guarded.service.url, key=issued.key) as client:
        async with client.lease(ttl=30) as lease:
            pass
        assert (await admin.list(state="expired", owner=f"worker {kind}").total()) == 1
        assert lease.guid in {record.guid async for record in admin.list(state="expired")}


@pytest.mark.parametrize("key", [None, "gs_wrong"])
async def test_missing_and_wrong_keys_are_unauthorized(kind: str, guarded: GuardedService, key: str | None) -> None:
    async with client_of(kind, guarded.service.url, key=key) as client:
        with pytest.raises(Unauthorized):
            await client.get("0" * 32)


async def test_url_and_key_come_from_the_environment(
    kind: str, guarded: GuardedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="GUIDSVC_URL"):
        client_of(kind, "")
    monkeypatch.setenv("GUIDSVC_URL", guarded.service.url + "/")
    monkeypatch.setenv("GUIDSVC_KEY", guarded.key)
    async with client_of(kind, "") as client:
        with pytest.raises(NotFound):
            await client.get("0" * 32)
    async with client_of(kind, "", key="") as client:
        with pytest.raises(Unauthorized):
            await client.get("0" * 32)
