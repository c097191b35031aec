"""Responses that no service sends: each is an error of the client, and none ends the renewal of a lease unnoticed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from guidsvc_client import AsyncClient, GuidsvcError, LeaseLost, RepeatedCursor, TimedOut, UnexpectedResponse
from guidsvc_client.models import EventPage
from guidsvc_client.protocol.call import Pause
from guidsvc_client.protocol.workflows import EARLY_SECONDS, FeedPlan, PageTurner, next_page
from tests.conftest import ExpectedLogs
from tests.support.client_in_thread import client_of
from tests.support.scripted_server import Request, problem, response, scripted_server

GUID = "9094E4C980C74043A4B586B420E69DDF"
RECORD = {"guid": GUID, "expire": "4102444800", "user": "a", "metadata": {}}
FULL = dict.fromkeys(("created", "updated", "version", "purge_at", "renew_at", "max_expire"), "1") | {"state": "live"}
PROBLEM = {"type": "/problems/a", "title": "a", "status": 404, "detail": "a", "request_id": "a", "errors": []}
ODD: list[Any] = [None, 5, 1.5, 1e308, -1, True, "x", "", [], {}, "9" * 5000, 10**30, [None], {"a": None}]
DEEP = b"[" * 100_000, b'{"a":' * 100_000
CODES = ["not-found", "expired", "precondition-failed", "life-limit", "events-gone", "outcome-unknown", "in-progress"]
SECONDS = 60
"""Time limit of what must happen."""


async def all_of(items: AsyncIterator[Any]) -> list[Any]:
    """Read an iterator to its end, or up to a few items."""
    found = []
    async for item in items:
        found.append(item)
        if len(found) == 3:
            break
    return found


CALLS: Mapping[str, Callable[[Any], Awaitable[Any]]] = {
    "get": lambda guids: guids.get(GUID),
    "get in full": lambda guids: guids.get(GUID, full=True),
    "create": lambda guids: guids.create(user="a"),
    "put": lambda guids: guids.put(GUID, user="a"),
    "renew": lambda guids: guids.renew(GUID, ttl=5),
    "delete": lambda guids: guids.delete(GUID),
    "list": lambda guids: all_of(aiter(guids.list())),
    "total": lambda guids: guids.list().total(),
    "stream": lambda guids: all_of(aiter(guids.stream())),
    "batch": lambda guids: guids.batch([{"guid": GUID}]),
    "events": lambda guids: all_of(aiter(guids.events(follow=False))),
    "whoami": lambda guids: guids.whoami(),
    "stats": lambda guids: guids.stats(),
    "ready": lambda guids: guids.ready(),
    "version": lambda guids: guids.version(),
    "keys": lambda guids: all_of(aiter(guids.keys.list())),
    "new key": lambda guids: guids.keys.create(owner="a", scopes=["read"]),
}


def bodies() -> list[bytes]:
    """Return content of successes that is not what the service sends: JSON of other types, or too deep."""
    whole: dict[str, Any] = RECORD | FULL
    odd = [whole | {name: value} for name in whole for value in ODD]
    items = [{"items": [each], "next": "a", "more": True} for each in (None, 5, {}, {"id": 1})]
    items += [
        {"items": [], "next": each, "more": True} for each in ODD if each is not None and not isinstance(each, str)
    ]
    results = [{"results": [each]} for each in (None, {}, {"status": 404, "problem": {"code": 5}})]
    documents: list[Any] = [*ODD, *odd, *items, *results, {"results": 5}]
    return [*map(dumped, documents), *DEEP, b"1" * 20_000]


def problems() -> list[bytes]:
    """Return content of problems with members of other types, or too deep."""
    members = [*PROBLEM, "code", "record", "max_expire", "expired_at", "left", "reason", "oldest"]
    odd = [PROBLEM | {"code": code, name: value} for code in CODES for name in members for value in ODD]
    return [*map(dumped, odd), *DEEP, *map(dumped, ODD)]


def dumped(document: Any) -> bytes:
    """Return a document as JSON."""
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", CALLS)
async def test_odd_response_raises_an_error_of_the_client(name: str) -> None:
    await send_for_each(CALLS[name], [response(200, body + b"\n", ETag='"1"') for body in bodies()])


@pytest.mark.parametrize(
    "results",
    [[], [{"status": 200}] * 2, [{"status": 199}], [{"status": 302}], [{"status": "200"}], [{"status": 404}]],
)
async def test_odd_results_of_a_batch_are_no_success(results: list[Any]) -> None:
    body = response(200, dumped({"results": results}))
    async with scripted_server(lambda _: body) as server, AsyncClient(server.url, retries=0) as guids:
        with pytest.raises(UnexpectedResponse):
            await guids.batch([{"guid": GUID}])


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("name", ["list", "keys", "events"])
@pytest.mark.parametrize(("lead_in", "circle"), [(0, 1), (0, 2), (0, 3), (5, 1), (7, 6)])
async def test_list_that_would_never_end_is_an_error(
    kind: str, name: str, follow: bool, lead_in: int, circle: int
) -> None:
    """A page leads back to itself, to the one before, or to an earlier one. Each is read three times at most."""

    def page(request: Request) -> bytes:
        number = int(parse_qs(urlsplit(request.target).query).get("cursor", ["0"])[0])
        following = number + 1 if number < lead_in + circle else lead_in + 1
        return response(200, dumped({"items": [], "next": str(following), "more": True}))

    async with scripted_server(page) as server, client_of(kind, server.url) as guids:
        lists = {"list": guids.list(), "keys": guids.keys.list(), "events": guids.events(follow=follow)}
        async with asyncio.timeout(SECONDS):
            with pytest.raises(RepeatedCursor, match="would never end"):
                await all_of(aiter(lists[name]))
        assert lead_in + circle < len(server.requests) <= 1 + 3 * (lead_in + circle)
        assert circle > 1 or len(server.requests) == lead_in + 2, "a page that names itself is noticed at once"


@pytest.mark.parametrize("name", ["list", "keys", "events"])
async def test_long_list_is_read_to_its_end(kind: str, name: str) -> None:
    def page(request: Request) -> bytes:
        number = int(parse_qs(urlsplit(request.target).query).get("cursor", ["0"])[0])
        is_last = number == 200
        following = str(number + 1) if not is_last else "200" if name == "events" else None
        return response(200, dumped({"items": [], "next": following, "more": not is_last}))

    async with scripted_server(page) as server, client_of(kind, server.url) as guids:
        lists = {"list": guids.list(), "keys": guids.keys.list(), "events": guids.events(follow=False)}
        assert await all_of(aiter(lists[name])) == []
        assert len(server.requests) == 201


def test_reader_may_choose_another_place() -> None:
    """Also one that it has read before; it may stay where nothing follows yet."""
    turner = PageTurner("/events")
    for _ in range(3):
        assert turner.turn("1", "2") == "2"
        assert turner.turn("2", "3") == "3"
        assert [turner.turn("3", "3", may_stay=True) for _ in range(3)] == ["3"] * 3
    with pytest.raises(RepeatedCursor):
        turner.turn("3", "3")


async def test_newest_place_of_a_feed_is_no_repetition(kind: str) -> None:
    page = response(200, dumped({"items": [], "next": "a", "more": False}))
    async with scripted_server(lambda _: page) as server, client_of(kind, server.url) as guids:
        assert await all_of(aiter(guids.events(cursor="a", follow=False))) == []


def test_early_empty_page_of_events_is_followed_by_a_pause() -> None:
    plan = FeedPlan({}, "now", should_follow=True)
    flow = next_page(plan, None)
    next(flow)
    assert flow.send(EventPage([], "a", has_more=False)) == Pause(EARLY_SECONDS)

    flow = next_page(plan, None)
    next(flow)
    with pytest.raises(StopIteration):
        flow.send(EventPage([], "a", has_more=True))


async def test_odd_problem_raises_an_error_of_the_client() -> None:
    kind = "application/problem+json"
    await send_for_each(CALLS["get"], [response(404, body, kind, ETag='"1"') for body in problems()])


async def send_for_each(call: Callable[[Any], Awaitable[Any]], responses: list[bytes]) -> None:
    """Send a call for each response. Any exception but those of the client escapes."""
    remaining = iter(responses)
    async with scripted_server(lambda _: next(remaining)) as server, AsyncClient(server.url, retries=0) as guids:
        for _ in responses:
            try:
                await call(guids)
            except GuidsvcError as error:
                read_all(error)
        assert len(server.requests) == len(responses)


def read_all(error: GuidsvcError) -> None:
    """Read all attributes of an error."""
    for name in dir(error):
        getattr(error, name)


@pytest.mark.parametrize(
    "answer",
    [
        problem("life-limit", 404, {"type": None}),
        response(200, b"[" * 100_000),
        response(404, b"[" * 100_000, "application/problem+json"),
    ],
    ids=["null", "deep", "deep problem"],
)
async def test_odd_response_to_a_renewal_loses_the_lease(kind: str, answer: bytes) -> None:
    def reply(request: Request) -> bytes:
        return answer if request.target.endswith("/renewal") else acquired(request)

    async with scripted_server(reply) as server, client_of(kind, server.url) as guids, asyncio.timeout(SECONDS):
        with pytest.raises(LeaseLost):
            async with guids.lease(GUID, ttl=1) as lease:
                while True:
                    lease.check()
                    await asyncio.sleep(0.05)


def acquired(request: Request) -> bytes:
    """Return the response to the creation of a lease of a second."""
    now = int(time.time())
    times = {"expire": str(now + 1), "created": f"{now}000", "updated": f"{now}000", "renew_at": str(now)}
    return response(201, dumped(RECORD | FULL | request.json | times), ETag='"1"')


@pytest.mark.parametrize("target", ["/renewal", f"/guid/{GUID}"])
async def test_endless_response_does_not_hold_up_the_block(kind: str, target: str, expected_logs: ExpectedLogs) -> None:
    """Each of its bytes comes in time."""
    expected_logs.add("not released")
    begun = asyncio.Event()

    async def dripping() -> AsyncIterator[bytes]:
        begun.set()
        yield b"HTTP/1.1 200 -\r\nContent-Length: 1000000\r\n\r\n"
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    def reply(request: Request) -> bytes | AsyncIterator[bytes]:
        is_creation = request.headers.get("if-none-match") == "*" or not lease_requests
        lease_requests.append(request)
        return (
            acquired(request)
            if is_creation
            else dripping()
            if request.target.split("?")[0].endswith(target)
            else (response(204))
        )

    lease_requests: list[Request] = []
    async with scripted_server(reply) as server, client_of(kind, server.url) as guids, asyncio.timeout(SECONDS):
        try:
            async with guids.lease(GUID, ttl=1) as lease:
                if target == "/renewal":
                    await begun.wait()
        except LeaseLost:
            assert lease.is_lost
    assert begun.is_set()


@pytest.mark.parametrize("part", ["head", "body", "error"])
async def test_request_ends_though_each_byte_comes_in_time(kind: str, part: str) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        status = b"500" if part == "error" else b"200"
        yield b"HTTP/1.1 %b -\r\n" % status + (b"" if part == "head" else b"Content-Length: 1000000\r\n\r\n")
        while True:
            yield b"x: y\r\n" if part == "head" else b" "
            await asyncio.sleep(0.01)

    limits = {"timeout": 0.2, "total_timeout": 0.5, "retries": 0}
    async with scripted_server(lambda _: dripping()) as server, client_of(kind, server.url, **limits) as guids:
        with pytest.raises(TimedOut):
            await guids.get(GUID)
