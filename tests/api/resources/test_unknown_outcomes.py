"""Requests with an Idempotency-Key whose writes the store did not confirm, over HTTP."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from guidsvc.domain.caller import Caller
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.services.writes.change_audit import Action
from guidsvc.services.writes.group_writer import GroupResult, GroupWriter, MakeAt
from guidsvc.services.writes.record_writer import RecordWriter
from guidsvc.services.writes.write_attempt import begin_write
from guidsvc.store.contract import Swap
from guidsvc.store.instrumented import InstrumentedRecords
from tests.conftest import ExpectedLogs, Serving
from tests.support.assertions import assert_problem
from tests.support.factories import GUID
from tests.support.http_client import Client, Reply
from tests.support.mongo_proxy import MongoProxy

pytestmark = pytest.mark.each_backend

KEY = {"Idempotency-Key": "the-same"}


class Unconfirmed:
    """The users whose records are written without a confirmation: `done` ones are, `undone` ones are not."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.undone: set[str] = set()
        self.error: Exception = OutcomeUnknown("no answer")
        self.writes: list[str] = []
        """The users of all writes that were sent."""
        self.gate = asyncio.Event()
        self.gate.set()

    def heal(self) -> None:
        """Confirm all further writes, and forget those before."""
        self.done, self.undone, self.writes = set(), set(), []


@pytest.fixture
def unconfirmed(monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs) -> Unconfirmed:
    expected_logs.add("operation failed", "request failed", "fault of the service")
    made, swap = Unconfirmed(), RecordWriter.swap

    async def lossy(
        self: RecordWriter,
        action: Action,
        old: Record | None,
        new: Record,
        caller: Caller,
        *,
        not_after: int | None = None,
    ) -> bool:
        made.writes.append(new.user)
        if new.user in made.undone:
            begin_write()
            raise made.error
        await made.gate.wait()
        swapped = await swap(self, action, old, new, caller, not_after=not_after)
        if new.user in made.done:
            raise made.error
        return swapped

    async def alone(_: GroupWriter, guids: Sequence[str], __: MakeAt, ___: Caller) -> list[GroupResult]:
        return [None] * len(guids)

    monkeypatch.setattr(RecordWriter, "swap", lossy)
    monkeypatch.setattr(GroupWriter, "write_together", alone)
    return made


async def send(client: Client, *operations: dict[str, Any], **headers: str) -> Reply:
    """Send a batch of these operations with the key."""
    return await client.post("/guid:batch", {"operations": operations}, headers=KEY | headers)


def results_of(reply: Reply) -> list[Any]:
    """Return the results of a batch."""
    assert reply.status == 200, reply
    results: list[Any] = reply.json["results"]
    return results


def statuses(reply: Reply) -> list[int]:
    """Return the statuses of the results of a batch."""
    return [result["status"] for result in results_of(reply)]


async def users(client: Client) -> list[str]:
    """Return the users of all records, sorted."""
    return sorted(record["user"] for record in (await client.get("/guid?state=all")).json["items"])


@pytest.mark.parametrize("kind", ["done", "undone"])
async def test_retry_executes_only_unknown_creations(client: Client, unconfirmed: Unconfirmed, kind: str) -> None:
    getattr(unconfirmed, kind).add("b")
    operations: list[dict[str, Any]] = [
        {"user": "a"},
        {"user": "b", "metadata": {"x": 1}},
        {"op": "get", "guid": GUID},
        {"op": "no"},
    ]
    first = await send(client, *operations)
    assert statuses(first) == [201, 504, 404, 400]
    unknown = results_of(first)[1]
    assert unknown["problem"]["guid"] == unknown["guid"]
    assert unknown["guid"] in unknown["problem"]["detail"]

    unconfirmed.heal()
    await client.put(f"/guid/{results_of(first)[0]['guid']}", {"user": "changed since"})
    await client.put(f"/guid/{GUID}", {"user": "created since"})
    unconfirmed.writes.clear()
    again = await send(client, *operations)
    created, last = results_of(again)[1], await send(client, *operations)

    assert (created["status"], created["guid"], created["record"]["user"]) == (201, unknown["guid"], "b")
    assert [results_of(again)[index] for index in (0, 2, 3)] == [results_of(first)[index] for index in (0, 2, 3)]
    assert unconfirmed.writes == ["b"]
    assert "Idempotent-Replayed" not in again.headers
    assert (last.body, last.headers["Idempotent-Replayed"]) == (again.body, "true")
    assert await users(client) == ["b", "changed since", "created since"]


async def test_retry_creates_no_record_that_was_deleted(client: Client, unconfirmed: Unconfirmed) -> None:
    """The creation of the deleted record was confirmed, in the same response."""
    unconfirmed.undone.add("b")
    first = await send(client, {"user": "a"}, {"user": "b"})
    assert (await client.delete(f"/guid/{results_of(first)[0]['guid']}")).status == 204

    unconfirmed.heal()
    again = await send(client, {"user": "a"}, {"user": "b"})
    assert results_of(again)[0] == results_of(first)[0]
    assert statuses(again) == [201, 201]
    assert await users(client) == ["b"]


async def test_operations_on_named_guids_are_executed_once(client: Client, unconfirmed: Unconfirmed) -> None:
    other = "0" * 32
    await client.put(f"/guid/{GUID}", {"user": "x", "ttl": 100})
    etag = (await client.put(f"/guid/{other}", {"user": "y"})).headers["ETag"]
    unconfirmed.done.update({"b", "named"})
    operations: list[dict[str, Any]] = [
        {"op": "renew", "guid": GUID, "ttl": 5000},
        {"guid": other, "user": "z", "if_match": etag},
        {"op": "delete", "guid": other},
        {"guid": "1" * 32, "user": "named", "if_none_match": "*"},
        {"user": "b"},
    ]
    first = await send(client, *operations)
    assert statuses(first) == [200, 200, 204, 504, 504]

    unconfirmed.heal()
    for guid in (other, "1" * 32):
        await client.put(f"/guid/{guid}", {"user": f"since {guid[0]}"})
    unconfirmed.writes.clear()
    again, last = [await send(client, *operations) for _ in range(2)]
    assert results_of(again)[:4] == results_of(first)[:4]
    assert statuses(again)[4] == 201
    assert (unconfirmed.writes, last.body) == (["b"], again.body)
    assert await users(client) == ["b", "since 0", "since 1", "x"]


async def test_unknown_change_of_a_named_guid_is_replayed(client: Client, unconfirmed: Unconfirmed) -> None:
    """Others may have changed it since, and its client can read it."""
    unconfirmed.done.add("named")
    first = await send(client, {"guid": GUID, "user": "named"}, {"op": "no"})
    unconfirmed.heal()
    again = await send(client, {"guid": GUID, "user": "named"}, {"op": "no"})

    assert statuses(first) == [504, 400]
    assert (again.body, again.headers["Idempotent-Replayed"]) == (first.body, "true")
    assert unconfirmed.writes == []


@pytest.mark.parametrize("error", [StoreUnavailable("no"), OutcomeUnknown("no"), ValueError("a fault")], ids=repr)
async def test_failed_retry_leaves_a_creation_unknown(
    client: Client, unconfirmed: Unconfirmed, error: Exception
) -> None:
    """That nothing was changed is true of the retry alone."""
    unconfirmed.done.add("b")
    first = await send(client, {"user": "b"})
    unconfirmed.heal()
    unconfirmed.undone.add("b")
    unconfirmed.error = error

    assert (await send(client, {"user": "b"})).json == first.json
    unconfirmed.heal()
    assert results_of(await send(client, {"user": "b"}))[0]["guid"] == results_of(first)[0]["guid"]
    assert await users(client) == ["b"]


async def test_internal_error_of_a_creation_is_executed_again(client: Client, unconfirmed: Unconfirmed) -> None:
    """It may have taken effect before the error."""
    unconfirmed.done.add("b")
    unconfirmed.error = ValueError("a fault")
    assert statuses(await send(client, {"user": "b"})) == [500]
    unconfirmed.heal()
    assert statuses(await send(client, {"user": "b"})) == [201]
    assert await users(client) == ["b"]


async def test_one_of_concurrent_retries_executes_a_creation(client: Client, unconfirmed: Unconfirmed) -> None:
    unconfirmed.undone.add("b")
    assert statuses(await send(client, {"user": "a"}, {"user": "b"})) == [201, 504]
    unconfirmed.heal()
    unconfirmed.gate.clear()
    retry = asyncio.create_task(send(client, {"user": "a"}, {"user": "b"}))
    while not unconfirmed.writes:
        await asyncio.sleep(0)

    assert_problem(await send(client, {"user": "a"}, {"user": "b"}), 409, "in-progress")
    unconfirmed.gate.set()
    assert statuses(await retry) == [201, 201]
    assert unconfirmed.writes == ["b"]


async def test_retry_follows_the_first_preference(client: Client, unconfirmed: Unconfirmed) -> None:
    unconfirmed.undone.add("b")
    brief = await send(client, {"user": "b"}, Prefer="return=minimal")
    assert statuses(brief) == [504]
    unconfirmed.heal()
    again = await send(client, {"user": "b"})

    assert again.headers["Preference-Applied"] == "return=minimal"
    assert results_of(again)[0].keys() == {"status", "guid", "etag"}


async def test_many_unknown_creations_are_executed_again(client: Client, unconfirmed: Unconfirmed) -> None:
    """In more than one group, and with a response too large to be stored with its records."""
    unconfirmed.undone.add("b")
    operations = [{"user": "ab"[index % 3 > 0], "metadata": {"n": f"{index:0200}"}} for index in range(450)]
    first = await send(client, *operations)
    assert set(statuses(first)) == {201, 504}
    unconfirmed.heal()
    again, last = [await send(client, *operations) for _ in range(2)]

    assert statuses(again) == statuses(last) == [201] * 450
    assert [each["guid"] for each in results_of(again)] == [each["guid"] for each in results_of(first)]
    assert [each["guid"] for each in results_of(last)] == [each["guid"] for each in results_of(first)]
    assert unconfirmed.writes == ["b"] * 300


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_unknown_creation_names_its_guid_and_can_be_retried(
    client: Client, unconfirmed: Unconfirmed, method: str
) -> None:
    unconfirmed.done.add("b")
    body = assert_problem(await client.ask(method, "/guid", json={"user": "b"}, headers=KEY), 504, "outcome-unknown")
    unconfirmed.heal()
    again = await client.ask(method, "/guid", json={"user": "b"}, headers=KEY)

    assert (again.status, again.json["guid"]) == (201, body["guid"])
    assert f"GUID {body['guid']}" in str(body["detail"])
    assert await users(client) == ["b"]


async def test_creation_without_a_key_names_its_guid(client: Client, unconfirmed: Unconfirmed) -> None:
    unconfirmed.done.add("b")
    body = assert_problem(await client.post("/guid", {"user": "b"}), 504, "outcome-unknown")
    assert (await client.get(f"/guid/{body['guid']}")).json["user"] == "b"


async def test_line_batch_names_each_guid_of_unknown_outcome(client: Client, unconfirmed: Unconfirmed) -> None:
    """Also those after the failures that have a problem."""
    unconfirmed.done.add("b")
    reply = await client.post(
        "/guid:batch", body=b'{"user":"b"}\n' * 130, headers={"Content-Type": "application/x-ndjson"}
    )
    assert {result["status"] for result in reply.lines} == {504}
    assert ["problem" in result for result in reply.lines] == [True] * 100 + [False] * 30
    for result in (reply.lines[0], reply.lines[-1]):
        assert (await client.get(f"/guid/{result['guid']}")).status == 200
    assert len({result["guid"] for result in reply.lines}) == 130


@pytest.mark.slow
async def test_creation_that_mongodb_did_not_confirm_can_be_retried(
    serving: Serving, proxied_mongo: MongoProxy, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("operation failed", "store unavailable", "event sequencer failing")
    operations: list[dict[str, Any]] = [{"op": "get", "guid": GUID}, {"user": "a"}, {"user": "b"}]
    async with serving(store_url=f"mongodb://127.0.0.1:{proxied_mongo.port}/guidsvc?directConnection=true") as client:
        with proxied_mongo.dropping("update", collection="records"):
            first = await send(client, *operations)
        again, last = [await send(client, *operations) for _ in range(2)]

        assert (statuses(first), statuses(again)) == ([404, 504, 504], [404, 201, 201])
        assert [each["guid"] for each in results_of(again)[1:]] == [each["guid"] for each in results_of(first)[1:]]
        assert last.body == again.body
        assert await users(client) == ["a", "b"]


async def test_unknown_renewal_is_not_executed_again(client: Client, unconfirmed: Unconfirmed) -> None:
    await client.put(f"/guid/{GUID}", {"user": "b", "ttl": 100})
    unconfirmed.heal()
    unconfirmed.done.add("b")
    for _ in range(2):
        reply = await client.post(f"/guid/{GUID}/renewal", {"ttl": 5000}, headers=KEY)
        assert "guid" not in assert_problem(reply, 504, "outcome-unknown")
    assert unconfirmed.writes == ["b"]


@pytest.fixture
def no_writes(monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs) -> Callable[[bool], None]:
    """A function that switches the rejection of all writes of records by the store on or off."""
    expected_logs.add("request failed", "operation failed")
    swap, swap_many, rejects = InstrumentedRecords.swap, InstrumentedRecords.swap_many, False

    async def rejected_swap(records: InstrumentedRecords, *swapped: Record | None, **options: Any) -> bool:
        if rejects:
            raise StoreUnavailable("the store accepts no write")
        return await swap(records, *swapped, **options)

    async def rejected_swap_many(records: InstrumentedRecords, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        if rejects:
            return [StoreUnavailable("the store accepts no write") for _ in swaps]
        return await swap_many(records, swaps)

    def switch(is_on: bool) -> None:
        nonlocal rejects
        rejects = is_on

    monkeypatch.setattr(InstrumentedRecords, "swap", rejected_swap)
    monkeypatch.setattr(InstrumentedRecords, "swap_many", rejected_swap_many)
    return switch


RENEWAL = f"/guid/{GUID}/renewal", {"ttl": 100 * 24 * 3600}
NAMED = "/guid:batch", {"operations": [{"guid": GUID, "user": "b"}, {"guid": f"{7:032X}", "user": "c"}]}


@pytest.mark.parametrize("request_", [RENEWAL, NAMED], ids=["renewal", "batch"])
async def test_request_that_wrote_nothing_is_repeated_with_its_key(
    client: Client, no_writes: Callable[[bool], None], request_: tuple[str, dict[str, Any]]
) -> None:
    """Others may change the GUIDs that it names. But it has changed none, so it may be executed again."""
    await client.put(f"/guid/{GUID}", {"user": "a"})
    no_writes(True)
    first = await client.post(*request_, headers=KEY)
    failed = [result["status"] for result in first.json["results"]] if first.status == 200 else [first.status]
    no_writes(False)
    again = await client.post(*request_, headers=KEY)

    assert set(failed) == {503}
    assert again.status == 200
    assert [result["status"] for result in again.json.get("results", [])] in ([], [200, 201])
    assert "Idempotent-Replayed" not in again.headers
