"""Replays of large stored responses over a real store: they delay neither the event loop nor other owners."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from pydantic_core import to_json

from guidsvc.api.execution.response_codec import decode_response, encode_response, parts_of
from guidsvc.api.resources.batch.stored_results import encode_results, find_unknown, render_results
from guidsvc.domain import guid_generator
from guidsvc.errors import CorruptRecord, Overloaded
from guidsvc.http.response import Response
from guidsvc.services.idempotency import GuidFactory, Idempotency, Request
from guidsvc.services.receipts.quota import SMALL_BYTES, pack, unpack_small
from guidsvc.services.receipts.stored_response import StoredResponseReader
from guidsvc.store import open_store
from guidsvc.store.lease import LeaseClock
from tests.conftest import FakeClock

LARGE_BODY = json.dumps({"results": ["x" * 100] * 20_000}).encode()
LARGE = Response(200, {"A": "b"}, LARGE_BODY)
TEXT = encode_response(LARGE)
REPLAYS = 48
MOST_SECONDS = 0.04
"""The maximum CPU time of a turn of the event loop, ten times that of unpacking one large response."""


@pytest.fixture
async def idempotency(sqlite_url: str, clock: FakeClock) -> AsyncIterator[Idempotency]:
    async with open_store(sqlite_url, exclusive=True) as store:
        seeded = partial(guid_generator.seeded, guid_generator.guid_v4)
        yield Idempotency(store.receipts, LeaseClock(store.fence), clock=clock, seeded=seeded, replay_wait_seconds=60)


async def work(_: GuidFactory | None) -> bytes:
    return TEXT


def request_of(owner: str) -> Request:
    return Request(caller=owner, key="k", fingerprint="f" * 64)


@asynccontextmanager
async def longest_turn() -> AsyncIterator[list[float]]:
    """Yield a list; at the end it has the CPU time of the event loop's thread in its longest turn."""
    turns: list[float] = []

    async def measure() -> None:
        while True:
            started = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - started)

    task = asyncio.create_task(measure())
    yield turns
    task.cancel()
    turns[:] = [max(turns)]


async def test_many_replays_take_little_of_a_loop_turn(idempotency: Idempotency) -> None:
    await idempotency.once(request_of("a"), work)

    async def replay() -> bool:
        text, is_replay = await idempotency.once(request_of("a"), work)
        return is_replay and await decode_response(text) == LARGE

    async with longest_turn() as turns:
        assert all(await asyncio.gather(*(replay() for _ in range(REPLAYS))))
    assert turns[0] < MOST_SECONDS


async def test_owner_does_not_wait_for_replays_of_another(idempotency: Idempotency) -> None:
    for owner in "ab":
        await idempotency.once(request_of(owner), work)
    served_owners: list[str] = []

    async def replay(owner: str) -> None:
        await idempotency.once(request_of(owner), work)
        served_owners.append(owner)

    await asyncio.gather(*(replay("a") for _ in range(REPLAYS)), replay("b"))
    assert served_owners.index("b") < REPLAYS // 4


async def test_without_access_control_addresses_take_turns(idempotency: Idempotency) -> None:
    await idempotency.once(request_of(""), work)
    served_addresses: list[str] = []

    async def replay(address: str) -> None:
        await idempotency.once(request_of("")._replace(queue_name=address), work)
        served_addresses.append(address)

    await asyncio.gather(*(replay("192.0.2.1") for _ in range(REPLAYS)), replay("192.0.2.2"))
    assert served_addresses.index("192.0.2.2") < REPLAYS // 4


async def test_replay_over_its_queue_time_is_rejected() -> None:
    reader = StoredResponseReader(wait_seconds=0)
    text = pack(TEXT)
    response, *errors = await asyncio.gather(*(reader.read("a", text) for _ in range(3)), return_exceptions=True)
    assert response == TEXT
    assert [type(error) for error in errors] == [Overloaded, Overloaded]
    assert await reader.read("a", text) == TEXT


async def test_small_response_is_read_at_once_while_large_ones_wait() -> None:
    reader = StoredResponseReader(wait_seconds=60)
    text = pack(TEXT)
    large = [asyncio.create_task(reader.read("a", text)) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(StopIteration) as read:
        reader.read("a", pack(b"[204,{},null]")).send(None)
    assert read.value.value == b"[204,{},null]"
    assert not any(task.done() for task in large)
    await asyncio.gather(*large)


@pytest.mark.parametrize("size", [0, 1000, SMALL_BYTES - 1, SMALL_BYTES + 1, 5_000_000])
def test_only_small_responses_are_unpacked_on_the_event_loop(size: int) -> None:
    text = pack(b"x" * size)
    assert unpack_small(text) == (b"x" * size if size <= SMALL_BYTES else None)


@pytest.mark.parametrize("character", ["x", "🜁", '"'])
async def test_large_response_is_decoded_with_one_copy(character: str) -> None:
    body = to_json({"results": [character * 1000] * 1000})
    text = encode_response(Response(200, {}, body))
    tracemalloc.start()
    try:
        assert await decode_response(text) == Response(200, {}, body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1.1 * len(body)


@pytest.mark.parametrize("text", ["", "1", "[]", "{}", "[200]", '["200",{},null]', "[200,{},1]", '[200,{"a":1},null]'])
async def test_invalid_response_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptRecord):
        await decode_response(text.encode())


async def test_response_is_decoded_as_it_was_encoded() -> None:
    for response in (LARGE, Response(204, {}, None), Response(201, {"Location": "/guid/A"}, "Zürich🜁".encode())):
        assert await decode_response(encode_response(response)) == response
        assert await decode_response(to_json(response)) == response, "the format of versions up to 0.1.0"
    assert encode_response(Response(204, {"A": "b"}, None)) == b'[204,{"A":"b"},null]', "the format in the stores"
    assert encode_response(LARGE) == b'[200,{"A":"b"}]\n%b' % LARGE_BODY, "the format in the stores"


async def test_only_the_array_says_which_results_are_unknown() -> None:
    """No metadata of a client can, so none can make replays costly."""
    texts = [b'{"status":200,"record":{"metadata":{"status":504}}}', b'[3,{},[1],[2]]\n{"status":504}'] * 1000
    for chosen in (texts, texts[:2]):
        assert parts_of(encode_results({}, chosen, [])) is None
        encoded = encode_results({}, chosen, [1])
        assert parts_of(encoded) == ([1], [len(text) for text in chosen])
        assert (await decode_response(encoded)).body == render_results(chosen)
        found = await find_unknown(encoded, len(chosen), 10_000_000)
        assert found is not None
        assert (found.unknown, found.encode()) == ([1], encoded)
        with pytest.raises(CorruptRecord):
            await find_unknown(encoded, len(chosen) + 1, 10_000_000)
