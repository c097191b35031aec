"""Pages of the event feed: members of events, filters, and cursors."""

import asyncio
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import pytest

from guidsvc.domain.events import cursor as cursors
from guidsvc.domain.events.cursor import Cursor, CursorKey
from guidsvc.services.events import feed
from guidsvc.store import open_store
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.event_reader import LINES, SSE, all_events, now, page, parse_block, reading, types
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply

PATH = f"/guid/{GUID}"
FUTURE = 4_102_444_800


async def run_life_cycle(client: Client, path: str = PATH) -> None:
    """Create, update, renew, revoke and delete a GUID."""
    await client.put(path, {"user": USER, "expire": FUTURE, "metadata": {"a": "é\n"}})
    await client.put(path, {"user": "another"})
    await client.put(path, {"expire": FUTURE + 1})
    await client.put(path, {"expire": 0})
    await client.delete(path)


def key_of(sqlite_url: str) -> CursorKey:
    """Return the cursor key of the log in a file."""
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as file:
        return CursorKey(*file.execute("SELECT epoch, secret FROM log_bounds").fetchone())


@pytest.mark.both_servers
async def test_event_has_the_record_and_its_request(client: Client, clock: FakeClock) -> None:
    created = await client.put(
        PATH, {"user": USER, "expire": FUTURE, "metadata": {"a": 1}}, headers={"X-Request-Id": "x"}
    )
    version = created.headers["ETag"].strip('"')
    events_page = await page(client)
    assert events_page["items"] == [
        {
            "cursor": events_page["next"],
            "id": f"{GUID}-{version}",
            "type": "guid.created",
            "at": str(clock()),
            "guid": GUID,
            "version": version,
            "owner": "",
            "request_id": "x",
            "record": created.json,
        }
    ]
    assert events_page["more"] is False


async def test_each_kind_of_change_has_an_event_type(client: Client) -> None:
    await run_life_cycle(client)
    events = await all_events(client)
    assert types(events) == ["created", "updated", "renewed", "updated", "expired", "deleted"]
    assert [event.get("changed") for event in events] == [None, ["user"], ["expire"], ["expire"], None, None]
    assert events[-1]["record"] == events[3]["record"], "the record before the deletion"
    assert [event["version"] for event in events] == sorted(event["version"] for event in events)
    assert len({event["id"] for event in events}) == len(events)


async def test_pages_follow_each_other_without_gap(client: Client) -> None:
    for number in range(7):
        await client.put(f"/guid/{number:032X}", {"user": USER})
    found, path = [], "/events?limit=3&view=brief&from=oldest"
    while path:
        reply = await client.get(path)
        assert reply.headers["Cache-Control"] == "no-store"
        found.append(reply.json)
        target, _, relation = reply.headers["Link"].partition("; ")
        assert relation == 'rel="next"'
        path = target.strip("<>") if reply.json["more"] else ""
    assert [len(page_body["items"]) for page_body in found] == [3, 3, 1]
    events = [event for page_body in found for event in page_body["items"]]
    assert [int(event["guid"], 16) for event in events] == list(range(7))
    assert all("record" not in event for event in events)
    assert [page_body["next"] for page_body in found] == [page_body["items"][-1]["cursor"] for page_body in found]
    assert (await page(client, f"?cursor={found[-1]['next']}")) == {
        "items": [],
        "next": found[-1]["next"],
        "more": False,
    }


async def test_head_equals_get_without_body(client: Client) -> None:
    await run_life_cycle(client)
    for query in ("", "?limit=2", "?from=now&wait=30"):
        get, head = await client.get(f"/events{query.replace('30', '0')}"), await client.ask("HEAD", f"/events{query}")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"]
    head = await client.ask("HEAD", "/events", headers=SSE)
    assert (head.status, head.headers["Content-Type"]) == (200, "text/event-stream")


@pytest.mark.parametrize(
    ("query", "selected"),
    [
        ("type=guid.deleted", ["deleted"]),
        ("type=guid.created,guid.renewed", ["created", "renewed", "created"]),
        (f"guid={GUID}", ["created", "updated", "renewed", "updated", "expired", "deleted"]),
        ("guid_prefix=FF", ["created"]),
        ("guid_prefix=FE", []),
        ("user=another", ["updated", "renewed", "updated", "expired", "deleted"]),
        (f"user={USER.replace(' ', '%20')}", ["created", "updated"]),
        ("owner=", ["created", "updated", "renewed", "updated", "expired", "deleted", "created"]),
        ("owner=x", []),
    ],
)
async def test_filters_select_events_in_each_form(client: Client, query: str, selected: list[str]) -> None:
    await run_life_cycle(client)
    await client.put(f"/guid/{'F' * 32}", {"user": "third"})
    assert types(await all_events(client, f"?limit=2&{query}")) == selected
    async with reading(client.port, f"?{query}") as stream:
        *events, bookmark = await stream.lines()
    assert types(events) == selected
    assert bookmark == {"type": "bookmark", "cursor": await now(client), "at": bookmark["at"]}


async def test_all_forms_show_the_same_events(client: Client) -> None:
    await run_life_cycle(client)
    items = await all_events(client)
    lines = (await client.get("/events", headers=LINES)).lines
    reply = await client.get(f"/events?limit={len(items)}", headers=SSE)
    first, *blocks, last = [parse_block(text) for text in reply.body.decode().split("\n\n")[:-1]]

    assert lines[:-1] == items
    assert [{"cursor": block.fields["id"]} | (block.event or {}) for block in blocks] == items
    assert 1500 <= int(first.fields["retry"]) <= 4000
    assert last.fields == {"id": items[-1]["cursor"]}
    assert all(block.fields.keys() == {"id", "data"} for block in blocks), (
        "browsers show named events only to some listeners"
    )


async def test_limit_ends_a_stream_of_lines(client: Client) -> None:
    await run_life_cycle(client)
    lines = (await client.get("/events?limit=2", headers=LINES)).lines
    assert types(lines) == ["created", "updated", "bookmark"]
    assert lines[-1]["cursor"] == lines[1]["cursor"]
    rest = (await client.get(f"/events?cursor={lines[-1]['cursor']}", headers=LINES)).lines
    assert types(rest) == ["renewed", "updated", "expired", "deleted", "bookmark"]


async def test_last_event_id_wins_over_the_cursor(client: Client) -> None:
    await run_life_cycle(client)
    events = await all_events(client)
    headers = {"Last-Event-ID": events[-2]["cursor"]}
    for query in ("", "?from=now", f"?cursor={events[0]['cursor']}"):
        assert types((await page(client, query, headers=headers))["items"]) == ["deleted"]
    assert types((await page(client, "?from=now", headers={"Last-Event-ID": ""}))["items"]) == []


INVALID_QUERIES = [
    ("cursor=null", "`cursor` is not valid; send the `cursor` of an event"),
    ("cursor=", "`cursor` is empty; send no cursor to begin at the start"),
    ("type=guid.createt", "`type` must be one or more of guid.created, guid.updated"),
    ("type=", "`type` must be one or more of"),
    ("from=newest", "`from` must be `oldest` or `now`"),
    ("start=now", "`start` is not a known query parameter"),
    ("guid=a", "A GUID is 32 upper-case hexadecimal characters"),
    ("guid_prefix=g", "`guid_prefix` must be 1 to 32 upper-case hexadecimal characters"),
    (f"guid={GUID}&guid_prefix=0", "`guid_prefix` excludes `guid`"),
    ("wait=31", "`wait` must be a whole number of seconds from 0 to 30"),
    ("wait=-1", "`wait` must be"),
    ("wait=1.5", "`wait` must be"),
    ("wait=", "`wait` must be"),
    ("limit=0", "`limit` must be"),
    ("view=full", "`view` must be `brief`"),
    ("follow=yes", "`follow` must be `true` or `false`"),
    ("follow=true", "`follow` needs a stream; send Accept: application/x-ndjson"),
    ("user=", "`user` must have 1 to 256 characters"),
    ("last_event_id=x", "`last_event_id` is not a known query parameter"),
]


async def test_invalid_parameter_is_rejected(client: Client) -> None:
    for query, fault in INVALID_QUERIES:
        reply = await client.get(f"/events?{query}")
        assert_problem(reply, 400, "invalid-request")
        assert reply.json["detail"].startswith(fault), query
        assert reply.headers["Content-Type"] == "application/problem+json", query


async def test_invalid_last_event_id_is_rejected(client: Client) -> None:
    cursor = await now(client)
    for text in ("null", cursor[:-1], f"{cursor}A", "A" * 20, f"{cursor[:-1]}="):
        reply = await client.get("/events", headers=SSE | {"Last-Event-ID": text})
        assert_problem(reply, 400, "invalid-request")
        assert reply.json["errors"][0]["header"] == "Last-Event-ID"


@pytest.mark.both_servers
@pytest.mark.parametrize("headers", [{}, LINES, SSE], ids=["json", "lines", "sse"])
async def test_cursor_that_is_gone_gets_410_in_each_form(
    client: Client, sqlite_url: str, headers: dict[str, str]
) -> None:
    await run_life_cycle(client)
    key = key_of(sqlite_url)
    sealed = cursors.decode(await now(client))
    place = sealed and sealed.unseal(key)
    assert place is not None
    gone = {
        "another-store": place._replace(key=replace(key, epoch=key.epoch ^ 1)),
        "rewound": place._replace(number=place.number + 1),
    }
    changed = {"rewound": place._replace(checksum=place.checksum ^ 1)}
    for reason, cursor in [*gone.items(), *changed.items(), ("rewound", Cursor(key, 0, 1))]:
        reply = await client.get(f"/events?cursor={cursor.encode()}", headers=headers)
        assert_problem(reply, 410, "events-gone")
        assert "Save `now` of this error, read all GUIDs again, then follow" in reply.json["detail"]
        assert reply.json["reason"] == reason
        assert reply.json["now"] == place.encode()
        assert types((await page(client, f"?cursor={reply.json['oldest']}"))["items"])[0] == "created"
        assert (await page(client, f"?cursor={reply.json['now']}"))["items"] == []


async def test_trimmed_events_are_gone_and_others_remain(serving: Serving, sqlite_url: str, clock: FakeClock) -> None:
    async with serving() as client:
        await run_life_cycle(client)
        events = await all_events(client)
    async with open_store(sqlite_url, exclusive=False) as store:
        assert await store.events.trim(clock() + 1, 2**30, 3) == 3
    async with serving() as client:
        for headers in ({}, LINES, SSE):
            reply = await client.get(f"/events?cursor={events[1]['cursor']}", headers=headers)
            assert_problem(reply, 410, "events-gone")
            assert reply.json["reason"] == "trimmed"
        assert reply.json["oldest"] == events[2]["cursor"], "the cursor of the last trimmed event must stay valid"
        assert (await page(client, f"?cursor={events[2]['cursor']}"))["items"] == events[3:]
        assert (await page(client))["items"] == events[3:]
        assert reply.json["now"] == events[-1]["cursor"]


async def test_scan_without_match_moves_the_cursor(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidsvc.store.sqlite.events.reading.SCANNED", 2)
    await run_life_cycle(client)
    query, found = "?type=guid.deleted", []
    while True:
        events_page = await page(client, query)
        found.append((len(events_page["items"]), events_page["more"]))
        query = f"?type=guid.deleted&cursor={events_page['next']}"
        if not events_page["more"]:
            break
    assert found == [(0, True), (0, True), (1, False)]
    lines = (await client.get("/events?type=guid.deleted", headers=LINES)).lines
    assert types(lines) == ["deleted", "bookmark"]


async def test_feed_is_forbidden_without_event_log(serving: Serving) -> None:
    async with serving(events="off") as client:
        await client.put(PATH, {"user": USER})
        for headers in ({}, LINES, SSE):
            reply = await client.get("/events?nonsense=1", headers=headers)
            assert_problem(reply, 403, "forbidden")
            assert "--events all" in reply.json["detail"]


async def test_changes_mode_leaves_renewals_out(serving: Serving) -> None:
    async with serving(events="changes") as client:
        await run_life_cycle(client)
        assert types(await all_events(client)) == ["created", "updated", "updated", "expired", "deleted"]


async def test_page_of_events_is_limited_in_bytes(client: Client) -> None:
    for number in range(80):
        await client.put(f"/guid/{number:032X}", {"user": USER, "metadata": {"a": "x" * 16_000}})
    reply = await client.get("/events?limit=500")
    assert reply.json["more"] is True
    assert len(reply.body) < 1.2 * feed.PAGE_BYTES
    assert len(await all_events(client)) == 80


async def test_events_of_one_guid_are_in_order(client: Client) -> None:
    """Concurrent writers must not change that."""

    async def write(writer: int) -> list[Reply]:
        return [await client.put(PATH, {"user": f"{writer}-{number}"}) for number in range(20)]

    replies = [reply for written in await asyncio.gather(*map(write, range(4))) for reply in written]
    events = await all_events(client)
    versions = [int(event["version"]) for event in events]
    assert all(earlier < later for earlier, later in pairwise(versions))
    assert sorted(f'"{version}"' for version in versions) == sorted(reply.headers["ETag"] for reply in replies)
    assert {json.dumps(event["record"]) for event in events} == {json.dumps(reply.json) for reply in replies}
