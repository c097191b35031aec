"""A batch of an import: what is sent again, with which idempotency key, and what stops it."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from guidsvc.cli.remote.transfer import sending
from guidsvc.cli.remote.transfer.lines import Operation
from guidsvc.cli.remote.transfer.sending import BatchSender, Policy
from guidsvc_client import Client, Forbidden, QuotaExceeded, Unavailable
from tests.support.scripted_server import Request, problem, response, scripted_server

GUIDS = [f"{number:032X}" for number in range(4)]
OPERATIONS = [Operation(number + 1, guid, {"user": "a"}) for number, guid in enumerate(GUIDS)]
Results = Callable[[Request], bytes]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_pause", lambda _: None)


def guids_of(request: Request) -> list[str]:
    """Return the GUIDs that a batch puts."""
    return [operation["guid"] for operation in request.json["operations"]]


def result(guid: str, status: int = 201, code: str = "") -> dict[str, Any]:
    """Return the result of an operation."""
    document = {"type": f"/problems/{code}", "title": code, "status": status, "code": code}
    return {"status": status, "guid": guid, **({"problem": document} if code else {"etag": '"7"'})}


def results(*documents: dict[str, Any]) -> bytes:
    """Return the response to a batch."""
    return response(200, json.dumps({"results": documents}).encode())


async def send(
    answers: list[Results], policy: Policy = "overwrite", operations: Sequence[Operation] = OPERATIONS
) -> tuple[list[str], list[Request]]:
    """Send a batch; return the kinds of the outcomes in the order of the lines, and the requests."""

    def answer(request: Request) -> bytes:
        return answers.pop(0)(request)

    async with scripted_server(answer) as server:
        with Client(server.url, retries=0) as client:
            sender = BatchSender(client, policy, is_dry=False)
            outcomes = await asyncio.to_thread(lambda: list(sender.send(operations, "key")))
    return [each.kind for each in sorted(outcomes, key=lambda each: each.number)], server.requests


async def test_operations_that_wait_are_sent_again_with_a_new_key() -> None:
    kinds, requests = await send(
        [
            lambda _: results(
                result(GUIDS[0]),
                result(GUIDS[1], 503, "unavailable"),
                result(GUIDS[2], 200),
                result(GUIDS[3], 429, "rate-limited"),
            ),
            lambda _: results(result(GUIDS[1]), result(GUIDS[3], 200)),
        ]
    )

    assert kinds == ["created", "created", "updated", "updated"]
    assert guids_of(requests[1]) == [GUIDS[1], GUIDS[3]]
    first, second = [request.headers["idempotency-key"] for request in requests]
    assert (first, second) == ("key-0-0-", "key-0-1-")


@pytest.mark.parametrize(
    ("status", "code", "error", "count"),
    [(503, "unavailable", Unavailable, sending.ATTEMPTS), (403, "quota-exceeded", QuotaExceeded, 2)],
)
async def test_operation_that_is_never_executed_stops_the_import(
    status: int, code: str, error: type[Exception], count: int
) -> None:
    requests: list[Request] = []

    def answer(request: Request) -> bytes:
        requests.append(request)
        return results(*(result(guid, status, code) for guid in guids_of(request)))

    with pytest.raises(error):
        await send([answer] * sending.ATTEMPTS)
    assert len(requests) == count
    are_of_the_place = [request.headers["idempotency-key"].startswith("key-") for request in requests]
    assert are_of_the_place == [attempt < sending.ATTEMPTS - 1 for attempt in range(count)]


async def test_key_without_the_scope_stops_the_import() -> None:
    with pytest.raises(Forbidden):
        await send([lambda _: problem("forbidden", 403)])


@pytest.mark.parametrize(("code", "status"), [("outcome-unknown", 504), ("idempotency-mismatch", 422)])
async def test_batch_whose_key_is_spent_is_sent_with_another(code: str, status: int) -> None:
    kinds, requests = await send(
        [lambda _: problem(code, status), lambda request: results(*map(result, guids_of(request)))]
    )

    assert kinds == ["created"] * 4
    assert requests[0].body == requests[1].body
    assert len({request.headers["idempotency-key"] for request in requests}) == 2


async def test_rejected_batch_is_divided_down_to_the_line() -> None:
    """Only the second line is too large; each part has a key of its own."""

    def answer(request: Request) -> bytes:
        guids = guids_of(request)
        return problem("too-large", 413) if GUIDS[1] in guids else results(*map(result, guids))

    kinds, requests = await send([answer] * 7)

    assert kinds == ["created", "failed", "created", "created"]
    assert len({request.headers["idempotency-key"] for request in requests}) == len(requests) == 5


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"user": "a", "expire": "7"}, "unchanged"),
        ({"user": "b", "expire": "7"}, "conflict"),
        ({"user": "a", "expire": "7", "metadata": {"n": 1}}, "conflict"),
    ],
)
async def test_record_that_is_as_its_line_says_is_no_conflict(record: dict[str, Any], kind: str) -> None:
    found = response(200, json.dumps({"guid": GUIDS[0], **record}).encode(), ETag='"7"')
    failed = results(result(GUIDS[0], 412, "precondition-failed"), *map(result, GUIDS[1:]))
    again = results(result(GUIDS[0], 412, "precondition-failed"))
    kinds, requests = await send([lambda _: failed, lambda _: again, lambda _: found], "fail")

    assert kinds == [kind, "created", "created", "created"]
    assert guids_of(requests[1]) == GUIDS[:1]
    assert all(operation["if_none_match"] == "*" for operation in requests[0].json["operations"])
    assert requests[2].target == f"/guid/{GUIDS[0]}"


async def test_conflict_of_an_earlier_run_may_be_over() -> None:
    """The first response is stored, and says what was then; the record was deleted since."""
    stored = results(result(GUIDS[0], 412, "precondition-failed"), *map(result, GUIDS[1:]))
    kinds, _ = await send([lambda _: stored, lambda _: results(result(GUIDS[0]))], "fail")

    assert kinds == ["created"] * 4


async def test_lines_of_one_guid_are_executed_in_order() -> None:
    """The first of them must be sent again before the second is sent."""
    repeated = [*OPERATIONS[:2], Operation(3, GUIDS[0], {"user": "b"})]
    kinds, requests = await send(
        [
            lambda _: results(result(GUIDS[0], 503, "unavailable"), result(GUIDS[1])),
            lambda _: results(result(GUIDS[0])),
            lambda _: results(result(GUIDS[0], 200)),
        ],
        operations=repeated,
    )

    assert kinds == ["created", "created", "updated"]
    assert list(map(guids_of, requests)) == [GUIDS[:2], GUIDS[:1], GUIDS[:1]]
    assert len({request.headers["idempotency-key"] for request in requests}) == 3
