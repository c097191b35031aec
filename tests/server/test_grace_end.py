"""The end of the grace period: what requests in progress get, and what the access log says of them."""

import asyncio
import json
import sqlite3
from contextlib import closing, suppress
from typing import Any

import pytest

from guidsvc.api.resources.batch import document_batch, timers
from guidsvc.api.resources.batch.document_batch import DocumentBatch
from guidsvc.api.resources.batch.executor import BatchExecutor, Result
from guidsvc.server import ticks
from guidsvc.server.protocol.base_connection import BaseConnection
from guidsvc.server.server import CLOSE_SECONDS
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import ExpectedLogs, Serving
from tests.support.event_reader import until_streams
from tests.support.factories import GUID
from tests.support.http_client import read_reply
from tests.support.slow_readers import narrow
from tests.support.stoppable_service import stoppable
from tests.support.stored_records import create

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}"
LOGGED = {"access_log": True, "log_format": "json"}
REASON = "the service ended before the response was complete"
JSON = "Content-Type: application/json\r\n"


def head(method: str, path: str, headers: str = "") -> bytes:
    """Return the head of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: cut-off\r\n{headers}\r\n".encode()


def line_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the only line of the access log about the request under test."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")
    ]
    (line,) = [line for line in lines if line["event"] == "request" and line["request_id"] == "cut-off"]
    return line


@pytest.fixture(autouse=True)
def _of_the_end(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("grace period over, aborting requests")


UPLOADS = {
    "put": head("PUT", PATH, f"{JSON}Content-Length: 99\r\n") + b'{"user"',
    "put-chunks": head("PUT", PATH, f"{JSON}Transfer-Encoding: chunked\r\n") + b"2\r\n{ \r\n",
    "post": head("POST", "/guid", f"{JSON}Content-Length: 99\r\n") + b'{"user"',
    "handler": head("PUT", f"{PATH}?view=full", f"{JSON}Content-Length: 99\r\n") + b'{"user"',
    "renewal": head("POST", f"{PATH}/renewal", f"{JSON}Content-Length: 99\r\n") + b'{"ttl"',
    "batch": head("POST", "/guid:batch", f"{JSON}Content-Length: 99\r\n") + b'{"operations"',
}


@pytest.mark.parametrize("name", UPLOADS)
async def test_request_with_incomplete_body_is_rejected(
    serving: Serving, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    async with stoppable(serving, grace=0.2, **LOGGED) as running:
        reader, writer = await running.send(UPLOADS[name])
        await running.client.get("/livez")
        shutdown = running.begin_shutdown()
        reply = await read_reply(reader, "POST")
        assert (reply.status, reply.json["code"], reply.headers["Connection"]) == (503, "unavailable", "close")
        assert reply.json["detail"] == "The service is shutting down. Nothing was changed; try again."
        assert "Retry-After" in reply.headers
        assert await reader.read() == b""
        writer.close()
        await shutdown
    line = line_of(capsys)
    assert (line["status"], line["code"]) == (503, "unavailable")


@pytest.mark.parametrize("query", ["", "?view=full"], ids=["fast-path", "handler"])
async def test_write_that_is_cut_off_has_a_line(
    serving: Serving, sqlite_url: str, capsys: pytest.CaptureFixture[str], expected_logs: ExpectedLogs, query: str
) -> None:
    expected_logs.add("store unavailable", "request failed")
    async with stoppable(serving, grace=0.2, **LOGGED) as running:
        with closing(sqlite3.connect(path_of_url(sqlite_url), isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            reader, _ = await running.send(
                head("PUT", PATH + query, f"{JSON}Content-Length: 13\r\n") + b'{"user": "a"}'
            )
            await running.client.get("/livez")
            shutdown = running.begin_shutdown()
            assert await reader.read() == b""
            lock.execute("ROLLBACK")
            await shutdown
    line = line_of(capsys)
    assert (line["status"], line["code"], line["reason"]) == (0, "unavailable", REASON)


async def test_list_that_is_cut_off_has_a_line(serving: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    async with stoppable(serving, grace=0.2, **LOGGED) as running:
        await create(running.client, range(400), metadata={"much": "x" * 15_000})
        async with narrow(running.client.port) as (reader, writer):
            writer.write(head("GET", "/guid", "Accept: application/x-ndjson\r\n"))
            await reader.readuntil(b"\r\n\r\n")
            await running.begin_shutdown()
    line = line_of(capsys)
    assert (line["status"], line["code"], line["reason"]) == (200, "unavailable", REASON)


class Gate:
    """Holds up each group of operations but the first, until the batch is told to end or for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        self._perform = BatchExecutor.perform
        self._stop = DocumentBatch.stop
        monkeypatch.setattr(BatchExecutor, "perform", self._performer())
        monkeypatch.setattr(DocumentBatch, "stop", self._stopper())

    def _performer(self) -> Any:
        async def held(executor: BatchExecutor, operations: Any, factory: Any = None) -> list[Result]:
            results = await self._perform(executor, operations, factory)
            self.reached.set()
            await self.opened.wait()
            return results

        return held

    def _stopper(self) -> Any:
        def stop(batch: DocumentBatch) -> None:
            self._stop(batch)
            self.opened.set()

        return stop


def document(count: int, headers: str = "") -> bytes:
    """Return a batch of creations."""
    body = json.dumps({"operations": [{"user": "a"}] * count}).encode()
    return head("POST", "/guid:batch", f"{JSON}{headers}Content-Length: {len(body)}\r\n") + body


async def test_document_ends_early_with_results_before_the_end(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(document_batch, "GROUP", 2)
    monkeypatch.setattr(timers, "DOCUMENT_MARGIN_SECONDS", 1_000)  # half of the grace period
    gate = Gate(monkeypatch)
    async with stoppable(serving, grace=6, **LOGGED) as running:
        reader, _ = await running.send(document(5))
        await gate.reached.wait()
        shutdown = running.begin_shutdown()
        reply = await read_reply(reader, "POST")
        assert [result["status"] for result in reply.json["results"]] == [201, 201, 503, 503, 503]
        assert reply.headers["Connection"] == "close"
        await shutdown
    assert line_of(capsys)["status"] == 200


async def test_document_with_a_key_is_executed_as_a_whole(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_batch, "GROUP", 2)
    monkeypatch.setattr(timers, "DOCUMENT_MARGIN_SECONDS", 1_000)
    gate = Gate(monkeypatch)
    async with stoppable(serving, grace=6) as running:
        reader, _ = await running.send(document(5, "Idempotency-Key: a\r\n"))
        await gate.reached.wait()
        shutdown = running.begin_shutdown()
        reply = await read_reply(reader, "POST")
        assert [result["status"] for result in reply.json["results"]] == [201] * 5
        await shutdown


async def test_batch_of_lines_that_is_cut_off_has_a_line(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group of it that takes too long is in progress."""
    gate = Gate(monkeypatch)
    async with stoppable(serving, grace=0.2, **LOGGED) as running:
        body = b'{"user": "a"}\n' * 200
        lines = f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body) + 1}\r\n"
        reader, _ = await running.send(head("POST", "/guid:batch", lines) + body)
        await gate.reached.wait()
        shutdown = running.begin_shutdown()
        assert await reader.read() == b""
        gate.opened.set()
        await shutdown
    line = line_of(capsys)
    assert (line["status"], line["reason"]) == (0, REASON)


STREAMS = {
    "sse": ("/events?from=now", "text/event-stream", b"id: "),
    "lines": ("/events?from=now&follow=true", "application/x-ndjson", b'"bookmark"'),
    "lines-wait": ("/events?from=now&wait=30", "application/x-ndjson", b'"bookmark"'),
    "wait": ("/events?from=now&wait=30", "application/json", b'"items":[]'),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_stream_of_events_ends_at_shutdown_and_has_a_line(
    serving: Serving, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path, accept, end = STREAMS[name]
    async with stoppable(serving, **LOGGED) as running:
        reader, _ = await running.send(head("GET", path, f"Accept: {accept}\r\n"))
        await until_streams(running.client, 1)
        shutdown = running.begin_shutdown()
        reply = await read_reply(reader, "GET")  # it fails if the stream is incomplete
        assert end in reply.body
        await shutdown
    assert line_of(capsys)["status"] == 200


async def test_client_that_keeps_sending_does_not_hold_up_the_end(serving: Serving) -> None:
    """It has two seconds to read its 503, and then its connection is closed."""

    async def keep_sending(writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.001)

    async with stoppable(serving, grace=0.2) as running:
        _, writer = await running.send(UPLOADS["put-chunks"])
        await running.client.get("/livez")
        sending = asyncio.create_task(keep_sending(writer))
        await running.begin_shutdown()
        await sending


@pytest.mark.parametrize("server", ["httptools"])
async def test_waiting_connections_are_examined_rarely(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them must not take the time that others need to end."""
    examined: list[BaseConnection] = []
    is_stuck = BaseConnection.is_stuck

    def recorded(connection: BaseConnection) -> bool:
        examined.append(connection)
        return is_stuck(connection)

    connections, grace = 20, 1.0
    monkeypatch.setattr(BaseConnection, "is_stuck", recorded)
    monkeypatch.setattr(ticks, "SCANNED_PER_SECOND", connections)
    async with stoppable(serving, grace=grace) as running:
        for _ in range(connections):
            await running.send(UPLOADS["batch"])
        await running.client.get("/livez")
        await running.begin_shutdown()
    scans = len(examined) / connections
    assert 2 <= scans <= (grace + CLOSE_SECONDS) / ticks.TICK_SECONDS + 2
