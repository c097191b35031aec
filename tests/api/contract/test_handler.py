"""Properties of all responses, and errors as problems."""

import asyncio
import inspect
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic_core import from_json
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from guidsvc import errors
from guidsvc.api.app import make_app
from guidsvc.api.contract import problems
from guidsvc.api.execution.pipeline import RequestPipeline
from tests.conftest import ExpectedLogs, Serving
from tests.support.api_context import api_context
from tests.support.assertions import assert_problem
from tests.support.backing_servers import Server
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up, raw, read_reply

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}"


async def test_unknown_path_is_not_found_for_every_method(serving: Serving) -> None:
    async with serving() as client:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
            for path in ("/nothing", "/guid/", f"/guid/{GUID}/more", "/GUID", "//guid", "/guid;x"):
                assert_problem(await client.ask(method, path), 404, "not-found")


async def test_valid_request_id_is_reused_and_invalid_one_replaced(serving: Serving) -> None:
    async with serving() as client:
        for sent_id in ("abc-123_X.y", "a" * 128):
            assert (await client.get("/livez", headers={"X-Request-Id": sent_id})).headers["X-Request-Id"] == sent_id
        for sent_id in ("", "a b", "a" * 129, "<script>", "é"):
            new_id = (await client.get("/livez", headers={"X-Request-Id": sent_id})).headers["X-Request-Id"]
            assert re.fullmatch("[0-9a-f]{32}", new_id)


async def test_every_reply_has_a_unique_request_id(serving: Serving) -> None:
    async with serving() as client:
        replies = [
            await client.put(PATH, {"user": USER}),
            await client.get(PATH),
            await client.ask("OPTIONS", PATH),
            await client.ask("BREW", PATH),
            await client.get("/nothing"),
            await client.delete(PATH),
        ]
        assert len({reply.headers["X-Request-Id"] for reply in replies}) == len(replies)


async def test_server_header_does_not_reveal_the_platform(serving: Serving) -> None:
    async with serving() as client:
        for reply in (await client.get("/livez"), await client.get("/nothing")):
            assert reply.headers["Server"] == "guidsvc"


async def test_errors_and_health_are_not_cacheable(serving: Serving) -> None:
    async with serving() as client:
        for path in ("/livez", "/readyz", "/nothing", PATH):
            reply = await client.get(path)
            assert reply.headers["Cache-Control"] == "no-store"
            assert "ETag" not in reply.headers


async def test_oversized_content_length_is_rejected_before_the_body(serving: Serving) -> None:
    head = b"PUT %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"
    async with serving() as client:
        expecting = head % (PATH.encode(), 70_000, b"Expect: 100-continue\r\n")
        assert_problem(await raw(client, expecting), 413, "too-large")
        assert_problem(await raw(client, head % (PATH.encode(), 10**12, b"")), 413, "too-large")
        huge = f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {'9' * 5000}\r\n\r\n".encode()
        assert_problem(await raw(client, huge), 413, "too-large")


async def test_endless_chunked_body_is_rejected_at_the_limit(serving: Serving) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    async with serving() as client:
        head = f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        assert_problem(await raw(client, head, *[chunk] * 16, b"1\r\n \r\n"), 413, "too-large")


async def test_request_after_shutdown_is_rejected(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("request failed", "store unavailable")
    context = api_context()
    server = HTTPServer(make_app(RequestPipeline(context)))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    client = Client(sockets[0].getsockname()[1])
    assert (await client.get("/livez")).status == 200
    in_flight = context.in_flight
    await asyncio.wait_for(in_flight.wait_until_idle(), 30)
    in_flight.draining = in_flight.closed = True

    reply = await client.get("/livez")
    assert_problem(reply, 503, "unavailable")
    assert reply.headers["Connection"] == "close"
    server.stop()
    await server.close_all_connections()


async def test_connection_survives_an_error(serving: Serving) -> None:
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        for path, status in (("/nothing", 404), ("/guid/x", 400), (PATH + "?x=1", 400), (PATH, 404), ("/livez", 200)):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).status == status
        await hang_up(writer)


async def test_internal_error_is_logged_and_hidden_from_the_client(
    serving: Serving, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    expected_logs.add("fault of the service")
    async with serving(cache_url="memory://") as client:
        await client.put(PATH, {"user": USER})
        corrupt(tmp_path / "guidsvc.db")
        body = assert_problem(await client.get(PATH), 500, "internal")

    assert set(body) == {"type", "title", "status", "code", "detail", "request_id"}
    assert "row" not in str(body)
    faults = [log_record for log_record in caplog.records if "fault of the service" in log_record.getMessage()]
    assert str(body["request_id"]) in faults[0].getMessage()
    assert "CorruptRecord" in str(faults[0].exc_info or faults[0].getMessage())


@pytest.mark.slow
async def test_silent_store_is_unavailable_with_retry_after(
    serving: Serving, own_mongo: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with serving(store_url=f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc") as client:
        await client.put(PATH, {"user": USER})
        own_mongo.kill()
        reply = await client.get(f"/guid/{'0' * 32}")
        assert_problem(reply, 503, "unavailable")
        assert int(reply.headers["Retry-After"]) >= 1
        assert_problem(await client.get("/readyz"), 503, "unavailable")
        assert (await client.get("/livez")).status == 200


@pytest.mark.slow
async def test_write_without_store_reply_has_outcome_unknown(
    serving: Serving, own_mongo: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with serving(store_url=f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc") as client:
        await client.put(PATH, {"user": USER})
        await client.get(PATH)  # the cache knows the record: the read before the write needs no store
        own_mongo.pause()
        body = assert_problem(await client.put(PATH, {"user": "another"}), 504, "outcome-unknown")
        assert "Read before you try again" in str(body["detail"])


def test_every_domain_error_has_a_status_or_is_internal() -> None:
    rows = {cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.GuidsvcError)}
    internal = {cls for cls in rows if problems.problem_of(cls.__new__(cls)) is problems.INTERNAL}

    never_shown = {errors.EventsTrimmed, errors.ForgedCursor}  # made EventsGone and InvalidRequest by the feed
    at_the_start = {cls for cls in rows if issubclass(cls, errors.StartError)}
    assert internal == {errors.GuidsvcError, errors.CorruptRecord, *at_the_start, *never_shown}


def test_each_problem_code_has_one_status_and_title() -> None:
    kinds = {*problems.TABLE.values(), problems.INTERNAL}

    assert len({kind.code for kind in kinds}) == len(kinds)
    assert {kind.code: kind.status for kind in kinds} == {
        "invalid-guid": 400,
        "headers-too-large": 431,
        "misdirected-request": 421,
        "too-early": 425,
        "invalid-request": 400,
        "events-gone": 410,
        "too-many-streams": 429,
        "not-found": 404,
        "method-not-allowed": 405,
        "not-implemented": 501,
        "http-version-not-supported": 505,
        "expired": 410,
        "unauthorized": 401,
        "forbidden": 403,
        "quota-exceeded": 403,
        "rate-limited": 429,
        "receipts-full": 429,
        "in-progress": 409,
        "key-ended": 409,
        "life-limit": 409,
        "expires-too-soon": 409,
        "idempotency-mismatch": 422,
        "precondition-failed": 412,
        "precondition-required": 428,
        "too-large": 413,
        "unsupported-media-type": 415,
        "internal": 500,
        "unavailable": 503,
        "outcome-unknown": 504,
    }


def test_problem_is_valid_json_for_any_error_text() -> None:
    error = errors.InvalidGuid('"quoted" \\ é 🜁 \x00')

    assert from_json(problems.render(error, "id"))["detail"] == str(error)


def corrupt(path: Path) -> None:
    """Corrupt the stored record of GUID."""
    with closing(sqlite3.connect(path)) as file, file:
        assert file.execute("UPDATE records SET user = '' WHERE guid = ?", (GUID,)).rowcount == 1
