"""Records through the client: create, read, change, list."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from guidsvc_client import (
    Client,
    Expired,
    ExpiresTooSoon,
    FullRecord,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    Record,
)
from tests.support.backing_servers import Service

SECONDS = 60
"""Time limit of what must happen."""


async def collected(items: Any) -> list[Any]:
    """Return what an async iterator yields."""
    return [item async for item in items]


def new_user() -> str:
    """Return a user whom no other test has."""
    return f"user {uuid4().hex}"


def wait_for_expiry(client: Client, record: Record) -> None:
    """Wait until a record has expired."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            client.get(record.guid)
        except Expired:
            return
        time.sleep(0.02)
    raise AssertionError("the record does not expire")


async def test_created_record_is_read_in_any_spelling(guids: Any) -> None:
    began = time.time()
    made = await guids.create(user="Cylance, Inc.", ttl=timedelta(minutes=5), metadata={"env": "é\u2028"})

    assert began <= made.expire - 300 < time.time() + 5
    uuid = UUID(made.guid)
    for spelling in (made.guid, made.guid.lower(), str(uuid), uuid, uuid.urn, f"{{{uuid}}}"):
        assert await guids.get(spelling) == made
    assert isinstance(made.version, int)
    assert made.expires_at == datetime.fromtimestamp(made.expire, UTC)


@pytest.mark.parametrize("text", ["", "9094E4C9", "9094E4C980C74043A4B586B420E69D_F", "{" + "0" * 32, "0" * 33])
async def test_text_that_is_no_guid_is_rejected_unsent(guids: Any, text: str) -> None:
    with pytest.raises(ValueError, match="is not a GUID"):
        await guids.get(text)


async def test_full_record_has_all_members(guids: Any) -> None:
    made = await guids.create(user="a")
    full = await guids.get(made.guid, full=True)

    assert isinstance(full, FullRecord)
    assert (full.guid, full.user, full.expire, full.version) == (made.guid, "a", made.expire, made.version)
    assert (full.created, full.updated, full.state, full.max_expire, full.owner) == (made.version,) * 2 + (
        "live",
        None,
        "",
    )
    assert full.renew_at
    assert full.created // 1000 < full.renew_at < full.expire < full.purge_at


async def test_unchanged_record_is_the_same_object(guids: Any) -> None:
    made = await guids.create(user="a")
    assert await guids.get(made.guid, if_changed_from=made) is made

    changed = await guids.put(made.guid, user="b")
    assert await guids.get(made.guid, if_changed_from=made) == changed


async def test_absent_and_expired_records_raise_their_errors(guids: Any) -> None:
    with pytest.raises(NotFound) as absent:
        await guids.get(uuid4())
    revoked = await guids.put(uuid4(), user="a", expire=datetime(2015, 3, 30, tzinfo=UTC))
    with pytest.raises(Expired) as expired:
        await guids.get(revoked.guid)

    assert absent.value.status == 404
    assert absent.value.request_id in str(absent.value)
    assert "/problems/not-found" in str(absent.value)
    assert expired.value.expired_at == revoked.expire
    assert (expired.value.renewable_until or 0) > time.time()


async def test_valid_for_demands_a_life(guids: Any) -> None:
    made = await guids.create(user="a", ttl=60)

    assert (await guids.get(made.guid, valid_for=timedelta(seconds=30))).guid == made.guid
    with pytest.raises(ExpiresTooSoon) as soon:
        await guids.get(made.guid, valid_for=600)
    assert (soon.value.expire, soon.value.left in range(55, 62)) == (made.expire, True)


async def test_put_merges_and_demands_the_version(guids: Any) -> None:
    guid = uuid4()
    first = await guids.put(guid, user="a", metadata={"n": 1}, if_none_match="*")
    second = await guids.put(guid, user="b", if_match=first.version)

    assert (second.user, second.metadata) == ("b", {"n": 1})
    with pytest.raises(PreconditionFailed) as failed:
        await guids.put(guid, user="c", if_match=first.version)
    assert failed.value.record == second
    with pytest.raises(PreconditionFailed):
        await guids.put(guid, user="c", if_none_match="*")


async def test_patch_merges_inside_metadata(guids: Any) -> None:
    made = await guids.create(user="a", metadata={"env": "test", "n": 1})
    patched = await guids.patch(made.guid, {"metadata": {"env": None}, "expire": made.expires_at + timedelta(days=1)})

    assert (patched.metadata, patched.expire) == ({"n": 1}, made.expire + 86_400)


async def test_renewal_says_what_it_granted(guids: Any) -> None:
    made = await guids.create(user="a", ttl=10)
    kept = await guids.renew(made.guid, ttl=60, if_below=timedelta(seconds=5))
    renewed = await guids.renew(made.guid, ttl=60, if_match=made.version)

    assert (kept.is_renewed, kept.expire, kept.version) == (False, made.expire, made.version)
    assert (renewed.is_renewed, renewed.is_capped, renewed.granted in (60, 61)) == (True, False, True)
    assert renewed.expire - renewed.granted <= renewed.renew_at <= renewed.expire
    assert (await guids.get(made.guid)).version == renewed.version


async def test_deleted_record_is_gone(guids: Any) -> None:
    made = await guids.create(user="a")
    with pytest.raises(PreconditionFailed):
        await guids.delete(made.guid, if_match=1)
    await guids.delete(made.guid, if_match=made.version)
    with pytest.raises(NotFound):
        await guids.delete(made.guid)


async def test_invalid_request_lists_every_fault(guids: Any) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        await guids.create(user=" ", metadata=7)
    assert [fault["pointer"] for fault in invalid.value.errors] == ["/user", "/metadata"]


async def test_own_idempotency_key_creates_once(guids: Any) -> None:
    key = uuid4().hex
    first, second = [await guids.create(user="once", idempotency_key=key) for _ in range(2)]
    assert first == second


async def test_updates_of_many_clients_lose_nothing(guids: Any) -> None:
    made = await guids.create(user="a", metadata={"n": 0})

    def count(record: Record) -> Record:
        return record.replace(metadata={**record.metadata, "n": record.metadata["n"] + 1})

    updated = await asyncio.gather(*(guids.update(made.guid, count) for _ in range(8)))
    assert sorted(record.metadata["n"] for record in updated) == list(range(1, 9))
    assert (await guids.get(made.guid)).metadata == {"n": 8}


async def test_update_without_a_change_writes_nothing(guids: Any) -> None:
    made = await guids.create(user="a")
    assert (await guids.update(made.guid, lambda record: record)).version == made.version
    assert (await guids.get(made.guid)).version == made.version


async def test_update_rejects_the_record_of_another_guid(guids: Any) -> None:
    made, other = [await guids.create(user="a") for _ in range(2)]
    with pytest.raises(ValueError, match="in place of"):
        await guids.update(made.guid, lambda _: other)


async def test_update_does_not_revive_a_record(guids: Any, running: Service) -> None:
    """It expires between the read and the write, without a change of its version."""
    with Client(running.url) as direct:

        def note(record: Record) -> Record:
            wait_for_expiry(direct, record)
            return record.replace(metadata={"note": "x"})

        made = await guids.put(uuid4(), user="a", ttl=1)
        with pytest.raises(Expired):
            await guids.update(made.guid, note)
        wait_for_expiry(direct, made)
        taken = await guids.put(made.guid, ttl=60, if_match=made.version)
        assert (taken.user, taken.metadata) == ("a", {})


async def test_update_that_sets_the_expiry_renews_the_record(guids: Any, running: Service) -> None:
    made = await guids.put(uuid4(), user="a", ttl=1)
    with Client(running.url) as direct:

        def prolong(record: Record) -> Record:
            wait_for_expiry(direct, record)
            return record.replace(user="b", expire=record.expire + 3600)

        assert (await guids.update(made.guid, prolong)).user == "b"
    assert (await guids.get(made.guid)).expire == made.expire + 3600


async def test_put_that_must_not_revive_raises_expired(guids: Any) -> None:
    revoked = await guids.put(uuid4(), user="a", expire=0)
    with pytest.raises(Expired):
        await guids.put(revoked.guid, ttl=60, revive=False)


async def test_list_reads_page_by_page(guids: Any) -> None:
    user = new_user()
    made = [await guids.create(user=user) for _ in range(5)]
    expected = sorted(record.guid for record in made)
    listed = guids.list(user=user, page_size=2)

    assert [record.guid for record in await collected(listed)] == expected
    assert [len(page.items) for page in await collected(listed.pages())] == [2, 2, 1]
    assert await listed.total() == 5
    (first, *_) = await collected(listed.pages())
    assert [len(page.items) for page in await collected(listed.pages(first.next))] == [2, 1]


async def test_list_selects_by_expiry_and_order(guids: Any) -> None:
    user = new_user()
    ends = [await guids.create(user=user, ttl=seconds) for seconds in (300, 100, 200)]
    soon = guids.list(user=user, sort="expire", expires_before=datetime.now(UTC) + timedelta(seconds=250), full=True)

    found = await collected(soon)
    assert [record.guid for record in found] == [ends[1].guid, ends[2].guid]
    assert all(isinstance(record, FullRecord) for record in found)


async def test_stream_has_every_record(guids: Any) -> None:
    user = new_user()
    made = [await guids.create(user=user, metadata={"text": "line\u2028\x0b\x1c"}) for _ in range(3)]
    streamed = await collected(guids.stream(user=user))

    assert {record.guid: record.metadata for record in streamed} == {record.guid: record.metadata for record in made}
    assert len(await collected(guids.stream(user=user, full=True, limit=2))) == 2


async def test_put_many_divides_into_batches_in_order(guids: Any) -> None:
    made = await guids.create(user="a", metadata={"n": 1})
    operations = [{"user": f"user {number}", "ttl": timedelta(minutes=1)} for number in range(4)]
    results = await collected(guids.put_many([*operations, {"user": ""}, made.replace(user="b")], chunk=2))

    assert [result.status for result in results] == [201] * 4 + [400, 200]
    assert [result.record.user for result in results[:4]] == [operation["user"] for operation in operations]
    assert isinstance(results[4].error, InvalidRequest)
    assert (results[5].record.user, results[5].record.metadata, results[5].guid) == ("b", {"n": 1}, made.guid)


async def test_batch_has_a_result_for_each_operation(guids: Any) -> None:
    made = await guids.create(user="a", ttl=60)
    put, renewed, failed, read = await guids.batch(
        [
            {"guid": made.guid, "user": "b", "if_match": made.version},
            {"op": "renew", "guid": made.guid, "ttl": timedelta(hours=1)},
            {"op": "delete", "guid": made.guid, "if_match": made.version},
            {"op": "get", "guid": UUID(made.guid), "valid_for": 60},
        ],
        full=True,
    )

    assert (put.record.user, renewed.renewal.is_renewed, read.record.user) == ("b", True, "b")
    assert isinstance(failed.error, PreconditionFailed)
    assert failed.error.version == renewed.version == read.version


async def test_validated_batch_changes_nothing(guids: Any) -> None:
    user = new_user()
    (result,) = await guids.batch([{"user": user}], validate_only=True)
    assert (result.status, await guids.list(user=user).total()) == (201, 0)


async def test_statistics_count_the_records_by_their_expiry(guids: Any) -> None:
    await guids.create(user="a", ttl=5400)
    stats = await guids.stats()

    assert stats.live >= sum(stats.days) >= stats.days[0] == sum(stats.hours)
    assert (len(stats.hours), len(stats.days), stats.expired >= 0) == (24, 30, True)
    assert abs(stats.at / 1000 - time.time()) < 60


async def test_minimal_batch_returns_no_records(guids: Any) -> None:
    (result,) = await guids.batch([{"user": "a"}], minimal=True)

    assert (result.status, result.record) == (201, None)
    assert (await guids.get(result.guid)).version == result.version


async def test_batch_with_own_idempotency_key_is_executed_once(guids: Any) -> None:
    key, user = uuid4().hex, new_user()
    first, second = [await guids.batch([{"user": user}], idempotency_key=key) for _ in range(2)]

    assert first == second
    assert await guids.list(user=user).total() == 1


async def test_service_describes_itself(guids: Any) -> None:
    ready = await guids.ready()

    assert (ready.is_ready, ready.status, ready.store, ready.cache) == (True, "ready", "up", "up")
    assert (await guids.version()).count(".") == 2
    assert (await guids.whoami()).access == "off"
