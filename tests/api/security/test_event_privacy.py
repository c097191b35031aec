"""The event feed reveals nothing about the events of other owners: neither `more` nor cursors show their number."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from guidsvc.domain.events import cursor as cursors
from guidsvc.store.sqlite.events import reading
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.event_reader import LINES, SSE, now
from tests.support.http_client import Client
from tests.support.secured_service import KeyClient, SecuredService

SMALL = 2**32
"""Above all event numbers in these tests. An encrypted number is below it once in four billion."""


@pytest.fixture
async def secured(serving: Serving, sqlite_url: str, clock: FakeClock) -> AsyncIterator[SecuredService]:
    async with serving(access="keys", login_limit="") as client:
        yield SecuredService(client, sqlite_url, clock)


async def create(caller: KeyClient, *numbers: int) -> None:
    """Create GUIDs."""
    for number in numbers:
        assert (await caller.ask("PUT", f"/guid/{number:032X}", json={"user": "u"})).status == 201


def shown_number(cursor: str) -> int:
    """Return the number at the place of a cursor where an unencrypted event number would be."""
    sealed = cursors.decode(cursor)
    assert sealed is not None
    return int.from_bytes(sealed.sealed[:8])


async def pages(caller: KeyClient, query: str) -> AsyncIterator[dict[str, Any]]:
    """Yield all pages of a query."""
    cursor = ""
    while True:
        page = (await caller.ask("GET", f"/events?{query}{cursor}")).json
        yield page
        if not page["more"]:
            return
        cursor = f"&cursor={page['next']}"


async def test_more_counts_only_events_of_the_caller(secured: SecuredService) -> None:
    alice, bob, admin = (
        await secured.key_client("alice"),
        await secured.key_client("bob"),
        await secured.key_client("ops", "admin"),
    )
    await create(alice, 1, 2)
    await create(bob, 3, 4, 5)
    expected = {"limit=1": True, "limit=2": False, "limit=3": False, "limit=1&guid_prefix=0": True}
    for query, more in expected.items():
        assert (await alice.ask("GET", f"/events?{query}")).json["more"] is more, query
    for query, more in {"limit=2": True, "limit=4": True, "limit=5": False, "limit=1&owner=alice": True}.items():
        assert (await admin.ask("GET", f"/events?{query}")).json["more"] is more, query


async def test_more_after_a_wait_counts_only_events_of_the_caller(secured: SecuredService) -> None:
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    waiting = asyncio.create_task(alice.ask("GET", "/events?from=now&wait=30&limit=1"))
    metrics = await secured.key_client("ops", "monitor")
    async with asyncio.timeout(20):
        while "guidsvc_streams 1.0" not in (await metrics.ask("GET", "/metrics")).body.decode():
            await asyncio.sleep(0.01)
    lines = "".join(f'{{"op":"put","guid":"{number:032X}","user":"u"}}\n' for number in range(1, 9))
    batch = {"Content-Type": "application/x-ndjson"}
    await asyncio.gather(create(alice, 9), bob.ask("POST", "/guid:batch", body=lines.encode(), headers=batch))
    events_page = (await waiting).json
    assert [event["guid"] for event in events_page["items"]] == [f"{9:032X}"]
    assert events_page["more"] is False


@pytest.mark.parametrize("others", [0, 1, 20])
async def test_pages_hide_the_number_of_events_of_others(
    secured: SecuredService, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Neither the number of requests nor `more` depends on the events of others, whatever the filter is."""
    monkeypatch.setattr(reading, "SCANNED", 4)
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    await create(bob, *range(100, 100 + others))
    await create(alice, *range(1, 9))
    await create(bob, *range(200, 200 + others))
    expected = {
        "": [(8, False)],
        "limit=8": [(8, False)],
        "type=guid.deleted": [(0, True), (0, False)],
        f"guid={8:032X}": [(0, True), (1, False)],
        "user=nobody&limit=1": [(0, True), (0, False)],
    }
    for query, shape in expected.items():
        assert [(len(page["items"]), page["more"]) async for page in pages(alice, query)] == shape, query
    lines = (await alice.ask("GET", "/events?type=guid.deleted", headers=LINES)).lines
    assert [line["type"] for line in lines] == ["bookmark"]


async def test_wait_is_not_ended_by_events_of_others(secured: SecuredService, monkeypatch: pytest.MonkeyPatch) -> None:
    """An early response would reveal how many events of others there were since the cursor."""
    monkeypatch.setattr(reading, "SCANNED", 4)
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    cursor = (await alice.ask("GET", "/events?from=now")).json["next"]
    await create(bob, *range(100, 120))
    waiting = asyncio.create_task(alice.ask("GET", f"/events?cursor={cursor}&wait=30"))
    metrics = await secured.key_client("ops", "monitor")
    async with asyncio.timeout(20):
        while "guidsvc_streams 1.0" not in (await metrics.ask("GET", "/metrics")).body.decode():
            assert not waiting.done()
            await asyncio.sleep(0.01)
    await create(bob, *range(120, 140))
    await create(alice, 1)
    events_page = (await waiting).json
    assert [event["guid"] for event in events_page["items"]] == [f"{1:032X}"]
    assert events_page["more"] is False


@pytest.mark.parametrize("scopes", ["read write", "admin"])
async def test_cursors_show_no_number(secured: SecuredService, scopes: str) -> None:
    caller = await secured.key_client("alice", scopes)
    await create(caller, *range(1, 6))
    pages = [(await caller.ask("GET", f"/events?{query}")).json for query in ("from=now", "limit=2", "limit=5")]
    gone = (await caller.ask("GET", "/events?cursor=AgAAAAAAAAAAAAAAAAAA")).json
    shown = [page["next"] for page in pages] + [event["cursor"] for page in pages for event in page["items"]]
    assert all(shown_number(cursor) > SMALL for cursor in [*shown, gone["oldest"], gone["now"]])


@pytest.mark.parametrize("headers", [{}, LINES, SSE], ids=["json", "lines", "sse"])
async def test_forged_cursor_is_rejected(client: Client, headers: dict[str, str]) -> None:
    cursor = await now(client)
    forged = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for query, more, fault in (
        (f"?cursor={forged}", {}, {"parameter": "cursor"}),
        ("", {"Last-Event-ID": forged}, {"header": "Last-Event-ID"}),
    ):
        reply = await client.get(f"/events{query}", headers=headers | more)
        assert_problem(reply, 400, "invalid-request")
        detail = "is not valid; send the `cursor` of an event, or `next` of a response, unchanged"
        assert reply.json["errors"] == [fault | {"detail": detail}]
