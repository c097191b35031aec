"""The tables of retries in docs/clients.md, row by row, on both clients."""

import asyncio
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import chain, repeat
from typing import Any

import httpx2
import pytest

import guidsvc_client
from guidsvc_client import (
    Disconnected,
    OutcomeUnknown,
    PreconditionFailed,
    RateLimited,
    Sent,
    TimedOut,
    Unavailable,
    Unreachable,
)
from guidsvc_client.clock import clock
from guidsvc_client.protocol import retrying
from tests.support.backing_servers import ROOT, free_port
from tests.support.client_in_thread import client_of
from tests.support.scripted_server import RESET, Request, problem, response, scripted_server

GUID = "9094E4C980C74043A4B586B420E69DDF"
PAGE = (ROOT / "docs" / "clients.md").read_text()
SECTION = PAGE.partition("## Retries\n")[2].partition("\n## ")[0]
TABLES = [
    [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines()[2:]]
    for table in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE)
]
RECORD = b'{"guid":"%b","expire":"4102444800","user":"a"}' % GUID.encode()
KEY = b'{"id":"Rk2JtXq8mZ4w","owner":"a","scopes":["read"],"state":"live","key":"gs_"}'
DONE = response(200, RECORD, ETag='"7"')
KEY_DONE = response(200, KEY)
SECONDS = 60.0
TIMEOUT_SECONDS = 3.0
"""The time limit of requests that get no response."""
FIRST: dict[str, list[bytes | None]] = {
    "no connection": [],
    "`rate-limited`, `too-many-streams`": [
        problem("rate-limited", 429, Retry_After="0"),
        problem("too-many-streams", 429, Retry_After="0"),
    ],
    "`unavailable`": [problem("unavailable", 503, Retry_After="0"), problem("unavailable", 503)],
    "`in-progress`": [problem("in-progress", 409, Retry_After="0")],
    "a connection that breaks off, or no response in time": [RESET, None],
    "`outcome-unknown`": [problem("outcome-unknown", 504)],
    "502, 503 or 504 of a proxy": [response(status, b"<html>", "text/html") for status in (502, 503, 504)],
    "a `Retry-After` beyond the 10 seconds": [problem("rate-limited", 429, Retry_After="11")],
    "`receipts-full`, `internal`, any other problem": [
        problem("receipts-full", 429, Retry_After="60"),
        problem("internal", 500),
        problem("forbidden", 403),
    ],
}
"""The responses that each row of the first table is about."""
REPEATABLE: dict[str, Callable[[Any], Any]] = {
    "get": lambda guids: guids.get(GUID),
    "put": lambda guids: guids.put(GUID, user="a"),
    "create": lambda guids: guids.create(user="a"),
    "patch": lambda guids: guids.patch(GUID, {"user": "a"}, if_match=6),
}
OTHERS: dict[str, Callable[[Any], Any]] = {
    "patch": lambda guids: guids.patch(GUID, {"user": "a"}),
    "key": lambda guids: guids.keys.rotate("Rk2JtXq8mZ4w"),
}


class Script:
    """Answers with each of some responses once, then with the last one."""

    def __init__(self, *responses: bytes | None) -> None:
        self._responses = list(responses)

    def __call__(self, _: Request) -> bytes | None:
        return self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]


def is_again(cell: str) -> bool:
    """Return whether the cell of a table says that the call is sent again; else it names errors that exist."""
    assert cell.startswith("again") or re.findall(r"`(\w+)`", cell) or cell == "the error", cell
    for name in re.findall(r"`([A-Z][a-z]\w+)`", cell):
        assert hasattr(guidsvc_client, name), name
    return cell.startswith("again")


async def failure(call: Any) -> Exception:
    """Return the error of a call, which must have one."""
    with pytest.raises(guidsvc_client.GuidsvcError) as raised:
        await call
    return raised.value


def test_tables_have_the_rows_that_are_tested() -> None:
    assert [row[0] for row in TABLES[0]] == list(FIRST)
    assert len(TABLES) == 2


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in TABLES[0] if FIRST[row[0]]], ids=lambda row: row[0])
async def test_call_is_repeated_as_the_table_says(kind: str, row: list[str]) -> None:
    await asyncio.gather(
        *(
            assert_repeated(kind, name, call, first, cell)
            for calls, cell in ((REPEATABLE, row[1]), (OTHERS, row[2]))
            for name, call in calls.items()
            for first in FIRST[row[0]]
        )
    )


async def plain_http(kind: str, stack: AsyncExitStack) -> Any:
    """Return what a client of this kind sends with. Without TLS, which takes longer to set up than all else here."""
    if kind == "sync":
        return stack.enter_context(httpx2.Client(verify=False))
    return await stack.enter_async_context(httpx2.AsyncClient(verify=False))


async def assert_repeated(kind: str, name: str, call: Callable[[Any], Any], first: bytes | None, cell: str) -> None:
    """Assert that a call whose first attempt ends so is sent as often as the cell says, with one request id."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(scripted_server(Script(first, KEY_DONE if name == "key" else DONE)))
        timeout = SECONDS if first is not None else TIMEOUT_SECONDS
        guids = client_of(kind, server.url, retries=1, timeout=timeout, http=await plain_http(kind, stack))
        if is_again(cell):
            assert await call(guids)
        else:
            error = await failure(call(guids))
            assert cell == "the error" or type(error).__name__ in cell, (name, first, error)
        assert len(server.requests) == (2 if is_again(cell) else 1), (name, first)
        assert len({request.headers["x-request-id"] for request in server.requests}) == 1
        assert len({request.headers.get("idempotency-key") for request in server.requests}) == 1
        assert ("idempotency-key" in server.requests[0].headers) == (name == "create")


@pytest.mark.parametrize("call", [*REPEATABLE.values(), *OTHERS.values()])
async def test_refused_connection_is_tried_again(kind: str, call: Callable[[Any], Any]) -> None:
    (row,) = [row for row in TABLES[0] if row[0] == "no connection"]
    assert (is_again(row[1]), is_again(row[2])) == (True, True)
    retries: list[tuple[Sent, Exception]] = []

    def note(sent: Sent, error: Exception) -> None:
        retries.append((sent, error))

    async with client_of(kind, f"http://127.0.0.1:{free_port()}", retries=1, on_retry=note) as guids:
        assert isinstance(await failure(call(guids)), Unreachable)
    assert [(sent.attempt, type(error)) for sent, error in retries] == [(2, Unreachable)]


QUIET = """
import sys, structlog
from guidsvc_client import Client, Unreachable
try:
    Client(sys.argv[1], retries=1).get(sys.argv[2])
except Unreachable:
    print("unreachable")
"""


def test_retries_of_a_program_print_nothing() -> None:
    command = [sys.executable, "-c", QUIET, f"http://127.0.0.1:{free_port()}", GUID]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "unreachable\n", "")


async def test_retry_is_logged(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "guidsvc_client")
    script = Script(problem("unavailable", 503, Retry_After="0"), DONE)
    async with scripted_server(script) as server, client_of(kind, server.url, key="gs_CANARY") as guids:
        await guids.get(GUID)

    (line,) = [entry.getMessage() for entry in caplog.records if entry.name == "guidsvc_client"]
    assert line.startswith(f"GET /guid/{GUID}, attempt 1 failed with Unavailable, next in 0.0 s, request ")
    assert "CANARY" not in line


async def test_call_is_not_repeated_after_a_suspension(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock runs on while the host is suspended, here in the pause before the repetition."""
    ahead = chain([0.0], repeat(retrying.Policy().retry_seconds + retrying.LATE_SECONDS))
    monkeypatch.setattr(retrying, "clock", lambda: clock() + next(ahead))
    async with scripted_server(Script(problem("unavailable", 503, Retry_After="0"), DONE)) as server:
        async with client_of(kind, server.url) as guids:
            assert isinstance(await failure(guids.get(GUID)), Unavailable)
        assert len(server.requests) == 1


async def test_retry_after_is_waited_for(kind: str) -> None:
    script = Script(problem("rate-limited", 429, Retry_After="1"), DONE)
    async with scripted_server(script) as server, client_of(kind, server.url) as guids:
        begin = time.monotonic()
        await guids.get(GUID)
        assert 1 <= time.monotonic() - begin < 4


async def test_retries_end_after_their_number(kind: str) -> None:
    for retries in (0, 2):
        async with scripted_server(Script(RESET)) as server:
            async with client_of(kind, server.url) as guids:
                assert isinstance(await failure(guids.with_options(retries=retries).get(GUID)), Disconnected)
            assert len(server.requests) == 1 + retries


async def test_timeout_of_one_call(kind: str) -> None:
    async with scripted_server(Script(None)) as server, client_of(kind, server.url, retries=0) as guids:
        begin = time.monotonic()
        error = await failure(guids.with_options(timeout=0.2).get(GUID))
        assert isinstance(error, TimedOut)
        assert time.monotonic() - begin < 4
        assert server.requests[0].headers["x-request-id"] in str(error)


MISMATCH = problem("precondition-failed", 412, {"record": {"guid": GUID, "expire": "5", "user": "a"}}, ETag='"9"')
ABSENT = problem("not-found", 404)
SETTLED: dict[str, tuple[Callable[[Any], Any], bytes]] = {
    "`delete`, and `not-found`": (lambda guids: guids.delete(GUID), ABSENT),
    "any other, and `precondition-failed`": (lambda guids: guids.put(GUID, user="b", if_match=7), MISMATCH),
}
IN_DOUBT: list[Callable[[Any], Any]] = [
    lambda guids: guids.put(GUID, user="a", if_none_match="*"),
    lambda guids: guids.put(GUID, user="a", expire=5, if_match=7),  # the values of MISMATCH
    lambda guids: guids.put(GUID, user="a", ttl=5, if_match=7),
    lambda guids: guids.put(GUID, user="a", expire=5, if_match="*"),
    lambda guids: guids.patch(GUID, {"user": "a"}, if_match=7),
    lambda guids: guids.delete(GUID, if_match=7),
    lambda guids: guids.renew(GUID, ttl=5, if_match=7),
]


def test_table_of_rejected_repetitions_is_tested() -> None:
    assert [row[0] for row in TABLES[1]] == list(SETTLED)
    assert [row[1] for row in TABLES[1]] == [
        "done",
        "`OutcomeUnknown`, with the current `record`",
    ]


async def test_rejected_repetition_shows_that_it_was_done(kind: str) -> None:
    delete, absent = SETTLED["`delete`, and `not-found`"]
    async with scripted_server(Script(RESET, absent)) as server, client_of(kind, server.url) as guids:
        assert await delete(guids) is None


@pytest.mark.parametrize("call", [SETTLED["any other, and `precondition-failed`"][0], *IN_DOUBT])
async def test_rejected_repetition_is_in_doubt(kind: str, call: Callable[[Any], Any]) -> None:
    async with scripted_server(Script(RESET, MISMATCH)) as server, client_of(kind, server.url) as guids:
        error = await failure(call(guids))
        assert isinstance(error, OutcomeUnknown)
        assert error.record is not None
        assert (error.record.user, error.version) == ("a", 9)
    assert len(server.requests) == 2, "a doubt is not sent again"
    async with scripted_server(Script(MISMATCH)) as server, client_of(kind, server.url) as guids:
        assert isinstance(await failure(call(guids)), PreconditionFailed), "that of a first attempt is no doubt"


@pytest.mark.parametrize("last", [problem("unavailable", 503), problem("rate-limited", 429)])
async def test_doubt_of_an_early_attempt_is_not_forgotten(kind: str, last: bytes) -> None:
    """The last error alone would say that nothing was changed."""
    async with scripted_server(Script(RESET, last)) as server, client_of(kind, server.url, retries=1) as guids:
        assert isinstance(await failure(guids.put(GUID, user="a")), Disconnected)
    async with scripted_server(Script(RESET, last)) as server, client_of(kind, server.url, retries=1) as guids:
        assert isinstance(await failure(guids.get(GUID)), Unavailable | RateLimited), "a read changes nothing"


async def test_update_is_one_batch_with_a_key(kind: str) -> None:
    result = b'{"results":[{"status":200,"guid":"%b","etag":"\\"8\\"","record":%b}]}' % (GUID.encode(), RECORD)

    def answer(request: Request) -> bytes | None:
        if request.method == "GET":
            return DONE
        return RESET if len(server.requests) == 2 else response(200, result)

    async with scripted_server(answer) as server, client_of(kind, server.url) as guids:
        assert (await guids.update(GUID, lambda record: record.replace(user="b"))).version == 8
    first, second = server.requests[1:]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.json == {"operations": [{"guid": GUID, "if_match": '"7"', "user": "b", "revive": False}]}


async def test_update_without_room_for_keys_leaves_no_doubt_out(kind: str) -> None:
    def answer(request: Request) -> bytes | None:
        if request.method == "POST":
            return problem("receipts-full", 429, Retry_After="60")
        return DONE if request.method == "GET" else RESET

    async with scripted_server(answer) as server, client_of(kind, server.url) as guids:
        error = await failure(guids.update(GUID, lambda record: record.replace(user="b")))
    assert isinstance(error, Disconnected)
    assert [request.method for request in server.requests] == ["GET", "POST", "PUT"]
    assert server.requests[-1].headers["if-match"] == '"7"'
    assert server.requests[-1].json == {"user": "b", "revive": False}


async def test_hooks_and_log_do_not_show_the_key(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Sent] = []
    caplog.set_level("DEBUG", "guidsvc_client")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(scripted_server(Script(RESET, DONE)))
        client = client_of(kind, server.url, key="gs_secret", on_request=seen.append)
        guids = await stack.enter_async_context(client)
        await guids.get(GUID, full=False, valid_for=5)
    assert [(sent.method, sent.target, sent.attempt) for sent in seen] == [
        ("GET", f"/guid/{GUID}?valid_for=5", attempt) for attempt in (1, 2)
    ]
    assert server.requests[0].headers["authorization"] == "Bearer gs_secret"
    assert f"GET /guid/{GUID}?valid_for=5, attempt 2" in caplog.text
    assert "gs_secret" not in caplog.text + repr(seen) + repr(guids._service)
