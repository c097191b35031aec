"""Small requests for records with large metadata hardly delay other requests: few of them are processed in a turn."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from guidsvc.api.html.record_pages import record_page
from guidsvc.api.parsing import body
from guidsvc.api.resources import guid as guid_resource
from guidsvc.domain import lifecycle
from guidsvc.runtime.fairness.decoding_turns import MERGED_BYTES, READERS, VALIDATED_BYTES
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.store.sqlite import repositories
from guidsvc.store.sqlite.tables import records_of
from tests.conftest import FakeClock
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply
from tests.support.turn_counter import TurnCounter

BATCH = "/guid:batch"
PATCH = "application/merge-patch+json"
METADATA: dict[str, list[object]] = {"a": [[]] * 5_000}
"""Of nearly 16 KiB as compact JSON."""
METADATA_BYTES = 15_006


async def create(client: Client, count: int) -> list[str]:
    """Create records with large metadata, and return their GUIDs."""
    guids = [f"{number:032X}" for number in range(count)]
    for guid in guids:
        assert (await client.ask("PUT", f"/guid/{guid}", json={"user": USER, "metadata": METADATA})).status == 201
    return guids


async def patch_all(client: Client, guids: Sequence[str], metadata: Callable[[int], object]) -> list[Reply]:
    """Send 32 patches of these GUIDs in turn, all at once; `metadata` makes the patch with a number."""
    headers = {"Content-Type": PATCH}
    patches = [(f"/guid/{guids[number % len(guids)]}", {"metadata": metadata(number)}) for number in range(32)]
    return await asyncio.gather(*(client.ask("PATCH", path, json=patch, headers=headers) for path, patch in patches))


@pytest.mark.parametrize("count", [1, 32], ids=["one GUID", "many GUIDs"])
async def test_little_metadata_is_patched_per_loop_turn(
    client: Client, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """A patch decodes, merges and renders all of it: up to a millisecond for 16 KiB."""
    counter = TurnCounter()
    guids = await create(client, count)
    monkeypatch.setattr(lifecycle, "patch", counter.counted(lifecycle.patch))
    async with counter.following_turns():
        replies = await patch_all(client, guids, lambda number: {f"b{number}": number})
    assert {reply.status for reply in replies} == {200}
    assert 1 <= counter.most <= READERS * MERGED_BYTES // METADATA_BYTES
    patched = [(await client.ask("GET", f"/guid/{guid}")).json["metadata"] for guid in guids]
    assert sum(len(each) - 1 for each in patched) == 32, "each patch is in its record"


@pytest.mark.parametrize("count", [1, 32], ids=["one GUID", "many GUIDs"])
async def test_few_large_patches_are_merged_per_loop_turn(
    client: Client, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Also if no metadata is stored: a patch is decoded with its body, and again when it is merged and rendered."""
    counter = TurnCounter()
    guids = [f"{number:032X}" for number in range(count)]
    for guid in guids:
        assert (await client.put(f"/guid/{guid}", {"user": USER})).status == 201
    monkeypatch.setattr(lifecycle, "patch", counter.counted(lifecycle.patch))
    monkeypatch.setattr(body, "parse", counter.counted(body.parse))
    async with counter.following_turns():
        replies = await patch_all(client, guids, lambda _: METADATA)
    assert {reply.status for reply in replies} == {200}
    assert 1 <= counter.most <= READERS


async def test_little_metadata_of_rows_is_validated_per_loop_turn(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many records a batch changes, because all other requests wait for the end of a turn."""
    counter = TurnCounter()
    guids = await create(client, 64)
    monkeypatch.setattr(repositories, "records_of", counter.counted(records_of, lambda rows, *_: len(rows)))
    operations = [{"guid": guid, "user": "b"} for guid in guids]
    async with counter.following_turns():
        reply = await client.ask("POST", BATCH, json={"operations": operations}, headers={"Prefer": "return=minimal"})

    assert [result["status"] for result in reply.json["results"]] == [200] * len(guids)
    assert 2 <= counter.most <= READERS * VALIDATED_BYTES // METADATA_BYTES


async def test_small_metadata_is_changed_without_turns(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    guids = [f"{number:032X}" for number in range(16)]
    operations = [{"guid": guid, "user": USER, "metadata": {"a": 1}} for guid in guids]
    assert (await client.ask("POST", BATCH, json={"operations": operations})).status == 200
    monkeypatch.setattr("guidsvc.runtime.fairness.decoding_turns.DecodingTurns.take_own_turn", pytest.fail)

    patch = {"metadata": {"b": 2}}
    reply = await client.ask("PATCH", f"/guid/{guids[0]}", json=patch, headers={"Content-Type": PATCH})
    assert reply.json["metadata"] == {"a": 1, "b": 2}
    assert (await client.ask("POST", BATCH, json={"operations": operations})).status == 200


async def test_few_pages_of_large_records_are_rendered_per_loop_turn(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page takes up to a millisecond, and all other requests wait for the end of a turn."""
    counter = TurnCounter()
    (guid,) = await create(client, 1)
    monkeypatch.setattr(guid_resource, "record_page", counter.counted(record_page))
    async with counter.following_turns():
        pages = (client.ask("GET", f"/guid/{guid}", headers={"Accept": "text/html"}) for _ in range(32))
        replies = await asyncio.gather(*pages)

    assert {reply.status for reply in replies} == {200}
    assert 1 <= counter.most <= READERS


@pytest.mark.parametrize(
    ("query", "status", "code"), [("", 410, "expired"), ("?valid_for=3", 409, "expires-too-soon")], ids=["410", "409"]
)
async def test_page_that_waited_for_its_turn_shows_no_expired_record(  # fixtures
    client: Client, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, query: str, status: int, code: str
) -> None:
    headers = {"Accept": "text/html"}
    record = {"user": USER, "metadata": METADATA, "ttl": 10}
    assert (await client.ask("PUT", f"/guid/{GUID}", json=record)).status == 201

    async def take_turn(_: FairSemaphore, __: str) -> None:
        clock.advance(seconds=10 if status == 410 else 8)

    monkeypatch.setattr(FairSemaphore, "take_turn", take_turn)
    reply = await client.ask("GET", f"/guid/{GUID}{query}", headers=headers)
    assert reply.status == status
    assert code in reply.body.decode()
