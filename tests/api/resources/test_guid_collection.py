"""Lists of GUIDs: pages, filters, cursors, totals and streams."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from tornado.iostream import StreamClosedError

from guidsvc.api.base.handler import Handler
from guidsvc.domain.commands import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from guidsvc.services.guid_service import GuidService
from guidsvc.services.listing import PAGE_BYTES, PART_BYTES
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.factories import USER
from tests.support.http_client import Client, Reply, hang_up, read_chunks
from tests.support.stored_records import create, drop_records, guid

pytestmark = pytest.mark.each_backend

NDJSON = {"Accept": "application/x-ndjson"}


async def pages(client: Client, path: str) -> AsyncIterator[Reply]:
    """Yield a page and all that follow, by their links."""
    while path:
        reply = await client.get(path)
        assert reply.status == 200
        yield reply
        target, _, relation = reply.headers.get("Link", "").partition("; ")
        assert relation in {"", 'rel="next"'}
        path = target.strip("<>")


def guid_numbers(reply: Reply) -> list[int]:
    """Return the GUIDs on a page as numbers."""
    return [int(item["guid"], 16) for item in reply.json["items"]]


async def test_list_holds_live_records_in_key_order(client: Client, clock: FakeClock) -> None:
    second, first = await create(client, range(2, 3), metadata={"a": 1}), await create(client, range(1, 2))
    await create(client, range(3, 4), expire=clock.seconds)

    reply = await client.get("/guid")

    assert reply.status == 200
    assert reply.json == {"items": [*first, *second], "next": None}
    assert reply.headers["Content-Type"] == "application/json"
    assert "Link" not in reply.headers


async def test_empty_service_returns_empty_list(client: Client) -> None:
    assert (await client.get("/guid")).body == b'{"items":[],"next":null}\n'
    assert (await client.get("/guid", headers=NDJSON)).body == b""


async def test_head_equals_get_without_body(client: Client) -> None:
    await create(client, range(2))
    for headers in ({}, NDJSON):
        get, head = (
            await client.get("/guid?limit=1", headers=headers),
            await client.ask("HEAD", "/guid?limit=1", headers=headers),
        )
        assert (head.status, head.body) == (200, b"")
        for name in ("Content-Type", "Link", "Vary", "Content-Length"):
            assert head.headers.get(name) == get.headers.get(name)


async def test_head_for_stream_of_disconnected_client_is_no_fault(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is logged, which the fixture `quiet` checks."""
    flushed = asyncio.Event()

    def flush(handler: Handler, **_: bool) -> asyncio.Future[None]:
        handler.request.connection.close()  # type: ignore[union-attr]
        flushed.set()
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_exception(StreamClosedError())
        sent.exception()  # avoids a warning if nobody awaits it
        return sent

    async with serving() as client:
        monkeypatch.setattr(Handler, "flush", flush)
        with suppress(Exception):
            await client.ask("HEAD", "/guid", headers=NDJSON)
        await flushed.wait()
        monkeypatch.undo()
        assert (await client.get("/livez")).status == 200


async def test_page_has_50_records_by_default_and_500_at_most(serving: Serving) -> None:
    async with serving() as client:
        await create(client, range(MAX_PAGE_SIZE + 2))
        for limit, length in (
            ("", DEFAULT_PAGE_SIZE),
            ("?limit=1", 1),
            (f"?limit={MAX_PAGE_SIZE}", MAX_PAGE_SIZE),
            ("?limit=9999999999999999", MAX_PAGE_SIZE),
        ):
            assert guid_numbers(await client.get(f"/guid{limit}")) == list(range(length))


async def test_links_lead_through_the_list_and_match_next(client: Client) -> None:
    await create(client, range(7))

    walked = [page async for page in pages(client, "/guid?limit=3")]

    assert [guid_numbers(page) for page in walked] == [[0, 1, 2], [3, 4, 5], [6]]
    for page in walked[:-1]:
        assert page.headers["Link"] == f'</guid?limit=3&cursor={page.json["next"]}>; rel="next"'
    assert walked[-1].json["next"] is None


async def test_last_full_page_has_no_next(client: Client) -> None:
    await create(client, range(4))

    assert [guid_numbers(page) async for page in pages(client, "/guid?limit=2")] == [[0, 1], [2, 3]]


async def test_link_keeps_the_filters(client: Client, clock: FakeClock) -> None:
    user = "Zürich & co, 100% +1"
    await create(client, range(3), user=user)
    await create(client, range(3, 6))

    path = f"/guid?limit=1&user={quote(user)}&state=live&expires_after={clock.seconds}"
    assert [guid_numbers(page) async for page in pages(client, path)] == [[0], [1], [2]]


async def test_list_filters_by_user(client: Client) -> None:
    await create(client, range(2), user="a")
    await create(client, range(2, 4), user="b")

    assert guid_numbers(await client.get("/guid?user=b")) == [2, 3]
    assert guid_numbers(await client.get("/guid?user=nobody")) == []


async def test_list_filters_by_state(client: Client, clock: FakeClock) -> None:
    await create(client, range(2), expire=clock.seconds)
    await create(client, range(2, 4), expire=clock.seconds + 1)

    for query, expected in (
        ("", [2, 3]),
        ("?state=live", [2, 3]),
        ("?state=expired", [0, 1]),
        ("?state=all", [0, 1, 2, 3]),
    ):
        assert guid_numbers(await client.get(f"/guid{query}")) == expected
    clock.advance(seconds=1)
    assert guid_numbers(await client.get("/guid")) == []
    assert guid_numbers(await client.get("/guid?state=expired")) == [0, 1, 2, 3]


async def test_list_omits_records_past_retention(serving: Serving, clock: FakeClock) -> None:
    async with serving(retention=10) as client:
        await create(client, range(1), expire=0)
        clock.advance(seconds=9)
        assert guid_numbers(await client.get("/guid?state=all")) == [0]
        clock.advance(seconds=1)
        for state in ("live", "expired", "all"):
            reply = await client.get(f"/guid?state={state}", headers={"Prefer": "return=total-count"})
            assert reply.json == {"items": [], "next": None, "total": 0}


async def test_list_filters_by_expiry_with_exclusive_bounds(client: Client, clock: FakeClock) -> None:
    now = clock.seconds
    for number in range(5):
        await create(client, range(number, number + 1), expire=now + 10 + number)

    assert guid_numbers(await client.get(f"/guid?expires_after={now + 11}")) == [2, 3, 4]
    assert guid_numbers(await client.get(f"/guid?expires_before={now + 12}")) == [0, 1]
    assert guid_numbers(await client.get(f"/guid?expires_after={now + 10}&expires_before={now + 13}")) == [1, 2]
    assert guid_numbers(await client.get(f"/guid?expires_after={now + 13}&expires_before={now + 10}")) == []


async def test_full_view_shows_states_of_records(client: Client, clock: FakeClock) -> None:
    await create(client, range(1), expire=0)
    await create(client, range(1, 2))

    items = (await client.get("/guid?state=all&view=full")).json["items"]

    assert [item["state"] for item in items] == ["expired", "live"]
    assert items[1]["version"] == (await client.get(f"/guid/{guid(1)}")).headers["ETag"].strip('"')


async def test_total_is_counted_on_request(client: Client) -> None:
    await create(client, range(5), user="a")
    await create(client, range(5, 7), user="b")

    assert "total" not in (await client.get("/guid")).json
    for query, total in (("", 7), ("?user=a&limit=2", 5), ("?user=c", 0), ("?state=expired", 0)):
        reply = await client.get(f"/guid{query}", headers={"Prefer": "return=total-count"})
        assert reply.json["total"] == total
        assert reply.headers["Preference-Applied"] == "return=total-count"


async def test_total_does_not_depend_on_the_page(client: Client) -> None:
    await create(client, range(3))

    cursor = (await client.get("/guid?limit=1")).json["next"]
    reply = await client.get(f"/guid?limit=1&cursor={cursor}", headers={"Prefer": "return=total-count"})

    assert (guid_numbers(reply), reply.json["total"]) == ([1], 3)


INVALID_QUERIES = [
    ("limit=0", "limit"),
    ("limit=-1", "limit"),
    ("limit=1.5", "limit"),
    ("limit=", "limit"),
    ("limit=%D9%A1", "limit"),
    ("state=dead", "state"),
    ("user=", "user"),
    ("user=%00", "user"),
    ("expires_before=x", "expires_before"),
    ("expires_before=2027-02-30", "expires_before"),
    ("expires_before=2027-01-01T12:00:00", "expires_before"),
    ("expires_before=%2B101w5", "expires_before"),
    ("expires_after=%2B999999999999d", "expires_after"),
    ("expires_after=--1h", "expires_after"),
    ("sort=user", "sort"),
    ("expires_after=253402300800", "expires_after"),
    ("cursor=", "cursor"),
    ("cursor=abc", "cursor"),
    ("cursor=%C3%A9", "cursor"),
    ("cursor=AgAAAAAAAAAAAAAAAAAAAAA", "cursor"),
    ("cursor=AgAAAAAA_____________________x", "cursor"),
    ("cursor=AgAAAAAA_____________________w", "cursor"),
    ("sort=guid&cursor=AgAAAAAA_____________________w", "cursor"),
    ("sort=expire&cursor=Aaqqqqqqqqqqqqqqqqqqqqo", "cursor"),
    ("cursor=AQAAAAAAAAAAAAAAAAAAAAAB", "cursor"),
    ("view=half", "view"),
    ("offset=10", "offset"),
    ("user=%FF", "user"),
    ("limit=1&limit=2", "limit"),
]


async def test_invalid_query_is_rejected_by_parameter_name(serving: Serving) -> None:
    async with serving() as client:
        for (query, parameter), headers in itertools.product(INVALID_QUERIES, ({}, NDJSON)):
            reply = await client.get(f"/guid?{query}", headers=headers)
            assert_problem(reply, 400, "invalid-request")
            assert [error["parameter"] for error in reply.json["errors"]] == [parameter], query


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("%2B90s", 90),
        ("+90s", 90),  # decodes to a blank
        ("+90", 90),
        ("90s", 90),
        ("%2B2m", 120),
        ("-30s", -30),
        ("-1h", -3600),
    ],
)
async def test_bound_can_be_relative_to_now(client: Client, clock: FakeClock, text: str, seconds: int) -> None:
    for number, offset in enumerate((-1, 0, 1)):
        await create(client, range(number, number + 1), expire=clock.seconds + seconds + offset)
    assert guid_numbers(await client.get(f"/guid?state=all&expires_before={text}")) == [0]
    assert guid_numbers(await client.get(f"/guid?state=all&expires_after={text}")) == [2]


async def test_bound_before_1970_leaves_out_no_record(client: Client) -> None:
    await create(client, range(1), expire=0)
    assert guid_numbers(await client.get("/guid?state=all&expires_after=-3000w")) == [0]
    assert guid_numbers(await client.get("/guid?state=all&expires_after=0")) == []
    assert guid_numbers(await client.get("/guid?state=all&expires_after=253402300799")) == []


@pytest.mark.parametrize(
    "text", ["2100-01-01", "2100-01-01T00:00:00Z", "2100-01-01t01:00:00.9%2B01:00", "2100-01-01T01:00:00+01:00"]
)
async def test_bound_can_be_a_date_or_a_time(client: Client, text: str) -> None:
    for number in range(3):
        await create(client, range(number, number + 1), expire=4102444799 + number)
    assert guid_numbers(await client.get(f"/guid?expires_before={text}")) == [0]
    assert guid_numbers(await client.get(f"/guid?expires_after={text}")) == [2]


async def test_list_by_expiry_holds_the_soonest_first(client: Client, clock: FakeClock) -> None:
    """On pages of any size, with filters, across links and in a stream; the total counts all records."""
    for number, expire in ((3, 10), (1, 20), (0, 20), (2, 30), (4, -5)):
        await create(client, range(number, number + 1), expire=clock.seconds + expire)
    for limit in (1, 2, 50):
        number_pages = [guid_numbers(page) async for page in pages(client, f"/guid?sort=expire&limit={limit}")]
        assert list(itertools.chain(*number_pages)) == [3, 0, 1, 2]
    assert guid_numbers(await client.get("/guid?sort=expire&state=all")) == [4, 3, 0, 1, 2]
    assert guid_numbers(await client.get("/guid?sort=expire&expires_before=%2B25s&expires_after=+15s")) == [0, 1]
    assert guid_numbers(await client.get(f"/guid?sort=expire&user={quote(USER)}&limit=2")) == [3, 0]
    assert guid_numbers(await client.get("/guid?sort=expire&user=nobody")) == []
    total = await client.get("/guid?sort=expire&limit=1", headers={"Prefer": "return=total-count"})
    assert (guid_numbers(total), total.json["total"]) == ([3], 4)
    stream = await client.get("/guid?sort=expire&limit=3", headers=NDJSON)
    assert [int(line["guid"], 16) for line in stream.lines] == [3, 0, 1]


async def test_stream_by_expiry_of_one_user_is_rejected(client: Client) -> None:
    reply = await client.get("/guid?sort=expire&user=u", headers=NDJSON)
    problem = assert_problem(reply, 400, "invalid-request")
    assert "read pages" in problem["errors"][0]["detail"]  # type: ignore[index]
    assert (await client.get("/guid?sort=guid&user=u", headers=NDJSON)).status == 200


async def test_walk_by_expiry_sees_each_unchanged_record_once(client: Client, clock: FakeClock) -> None:
    """Meanwhile other records are created, renewed and deleted before and after the position."""
    await create(client, range(0, 60, 2))
    unchanged, round_number = list[int](), 0
    async for page in pages(client, "/guid?sort=expire&limit=4"):
        unchanged += [number for number in guid_numbers(page) if number % 2 == 0]
        round_number += 1
        for number in range(1, 60, 6):
            expire = clock.seconds + 100 * ((number + round_number) % 30)
            if (number + round_number) % 3:
                await client.ask("PUT", f"/guid/{guid(number)}", json={"user": USER, "expire": expire})
            else:
                await client.ask("DELETE", f"/guid/{guid(number)}")
    assert sorted(unchanged) == list(range(0, 60, 2))


async def test_walk_during_writes_sees_each_lasting_record_once(client: Client) -> None:
    await create(client, range(0, 60, 2))
    walk_ended = asyncio.Event()

    async def write_other_records() -> None:
        for round_number in itertools.count():
            for number in range(1, 60, 2):
                if walk_ended.is_set():
                    return
                path = f"/guid/{guid(number)}"
                await (client.put(path, {"user": USER}) if round_number % 2 == 0 else client.delete(path))
            await client.put(f"/guid/{guid(2 * (round_number % 30))}", {"metadata": {"round": round_number}})

    writes = asyncio.create_task(write_other_records())
    for limit in (1, 7, 500):
        walked = [number async for page in pages(client, f"/guid?limit={limit}") for number in guid_numbers(page)]
        assert walked == sorted(set(walked))
        assert [number for number in walked if number % 2 == 0] == list(range(0, 60, 2))
    walk_ended.set()
    await writes


async def test_cursor_outlives_its_record(client: Client) -> None:
    await create(client, range(4))
    cursor = (await client.get("/guid?limit=2")).json["next"]
    for number in (1, 2):
        await client.delete(f"/guid/{guid(number)}")

    assert guid_numbers(await client.get(f"/guid?cursor={cursor}")) == [3]


async def test_list_without_store_is_unavailable(
    serving: Serving, sqlite_url: str, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with serving() as client:
        drop_records(sqlite_url)
        for headers in ({}, NDJSON, {"Prefer": "return=total-count"}):
            assert_problem(await client.get("/guid", headers=headers), 503, "unavailable")


async def test_page_of_large_records_is_short_and_pages_hold_all(serving: Serving) -> None:
    async with serving() as client:
        await create(client, range(90))  # small records first, which do not predict the size of the later ones
        await create(client, range(90, 240), metadata={"much": "x" * 16_000})
        for path in ("/guid?limit=500", "/guid?limit=500&view=full", "/guid?limit=100"):
            replies = [reply async for reply in pages(client, path)]
            assert [number for reply in replies for number in guid_numbers(reply)] == list(range(240))
            assert len(replies) > 2
            assert all(len(reply.body) <= PAGE_BYTES for reply in replies)
            assert all(len(reply.body) > PAGE_BYTES - 60_000 for reply in replies[:-1] if "500" in path)
            assert all(reply.json["next"] for reply in replies[:-1])
            assert replies[-1].json["next"] is None


# Streams


async def test_stream_holds_the_whole_selection_line_by_line(client: Client, clock: FakeClock) -> None:
    created = await create(client, range(60), metadata={"city": "Zürich\n"})
    await create(client, range(60, 62), expire=0)

    reply = await client.get("/guid", headers=NDJSON)

    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert reply.lines == created
    assert len((await client.get("/guid?state=all", headers=NDJSON)).lines) == 62
    assert len((await client.get("/guid?limit=7", headers=NDJSON)).lines) == 7


async def test_stream_is_longer_than_one_read(serving: Serving) -> None:
    async with serving() as client:
        created = await create(client, range(1001))
        assert (await client.get("/guid", headers=NDJSON)).lines == created
        assert (await client.get("/guid?limit=1000", headers=NDJSON)).lines == created[:1000]


async def test_stream_parts_are_bounded_in_bytes(serving: Serving) -> None:
    async with serving() as client:
        small = await create(client, range(700))
        large = await create(client, range(700, 760), metadata={"much": "x" * 16_000})
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /guid HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        chunks = [chunk async for chunk in read_chunks(reader)]
        await hang_up(writer)
        assert [json.loads(line) for line in b"".join(chunks).splitlines()] == small + large
        assert max(map(len, chunks)) <= PART_BYTES


async def open_stream(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Request a stream on a new connection with a small buffer; return when the response head has arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=2**12)
    writer.write(b"GET /guid HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    return reader, writer


@pytest.mark.slow
async def test_broken_stream_is_detected(serving: Serving, sqlite_url: str, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with serving() as client:
        await create(client, range(1200), metadata={"much": "x" * 15_000})
        reader, writer = await open_stream(client)
        drop_records(sqlite_url)
        with pytest.raises(asyncio.IncompleteReadError):
            assert [chunk async for chunk in read_chunks(reader)]
        await hang_up(writer)


async def test_client_that_disconnects_mid_stream_leaves_no_trace(serving: Serving) -> None:
    async with serving() as client:
        await create(client, range(1200), metadata={"much": "x" * 8_000})
        tasks_before = asyncio.all_tasks()
        _, writer = await open_stream(client)
        stream_tasks = asyncio.all_tasks() - tasks_before
        writer.transport.abort()
        await asyncio.wait(stream_tasks, timeout=30)
        assert all(task.done() for task in stream_tasks)
        assert (await client.get("/livez")).status == 200


async def test_http_1_0_stream_ends_with_its_connection(serving: Serving) -> None:
    async with serving() as client:
        created = await create(client, range(3))
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /guid HTTP/1.0\r\nAccept: application/x-ndjson\r\nConnection: keep-alive\r\n\r\n")
        _, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
        await hang_up(writer)
        assert [json.loads(line) for line in body.splitlines()] == created


async def test_record_that_expires_during_the_count_is_not_listed(
    client: Client, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total may take seconds to count; the page is read afterwards."""
    await client.put("/guid", {"user": "soon", "expire": clock.seconds + 100})
    count = GuidService.count

    async def slow_count(service: GuidService, *query: Any) -> int:
        total = await count(service, *query)
        clock.advance(seconds=100)
        return total

    monkeypatch.setattr(GuidService, "count", slow_count)
    reply = await client.get("/guid", headers={"Prefer": "return=total-count"})
    assert (reply.status, reply.json["items"]) == (200, [])
