"""Batches of lines in progress at shutdown: they end early, and report every operation that was executed."""

import asyncio
import json

import pytest

from guidsvc.api.resources.batch import timers
from guidsvc.api.resources.batch.executor import GROUP
from guidsvc.store import open_store
from tests.conftest import FakeClock, Serving
from tests.support.http_client import Reply, chunk, read_reply
from tests.support.stoppable_service import Connection, StoppableService, stoppable

pytestmark = pytest.mark.both_servers

HEAD = (
    b"POST /guid:batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def creations(start: int, count: int, padding: str = "") -> bytes:
    """Return lines that create the GUIDs with these numbers, as a chunk."""
    operations = [
        {"guid": f"{number:032X}", "user": "a", "metadata": {"a": padding}} for number in range(start, start + count)
    ]
    return chunk(b"".join(json.dumps(operation).encode() + b"\n" for operation in operations))


async def until_executed(running: StoppableService, number: int) -> None:
    """Wait until this GUID was created."""
    while (await running.client.get(f"/guid/{number:032X}")).status != 200:
        await asyncio.sleep(0.01)


def check_early_end(reply: Reply, executed: int) -> None:
    """Check the results of a batch of which so many lines were executed."""
    *results, last = reply.lines
    assert (reply.status, reply.headers["Connection"]) == (200, "close")
    assert [result["status"] for result in results] == [201] * executed
    problem = last["problem"]
    assert (last["status"], problem["code"], problem["line"]) == (503, "unavailable", executed + 1)
    assert problem["detail"] == "The service is shutting down. Nothing was changed; try again."


async def test_incomplete_batch_ends_with_its_results(serving: Serving) -> None:
    async with stoppable(serving) as running:
        reader, _ = await running.send(HEAD, creations(1, GROUP + 2))
        await until_executed(running, GROUP)
        shutdown = running.begin_shutdown()
        check_early_end(await read_reply(reader, "POST"), GROUP)
        assert await reader.read() == b""
        await shutdown


async def test_incomplete_batch_without_executed_lines_is_rejected(serving: Serving) -> None:
    async with stoppable(serving) as running:
        reader, _ = await running.send(HEAD, creations(1, 3))
        await running.client.get("/livez")
        shutdown = running.begin_shutdown()
        reply = await read_reply(reader, "POST")
        assert (reply.status, reply.json["code"], reply.headers["Connection"]) == (503, "unavailable", "close")
        assert "Retry-After" in reply.headers
        await shutdown


async def endlessly(connection: Connection, padding: str) -> None:
    """Send lines until the connection ends."""
    _, writer = connection
    number = 1
    while not writer.is_closing():
        writer.write(creations(number, 20, padding))
        number += 20
        await writer.drain()
        await asyncio.sleep(0)


async def test_batch_of_clients_that_keep_sending_reports_each_line(
    serving: Serving, sqlite_url: str, clock: FakeClock
) -> None:
    """The client reads while it sends. No line may be executed that the results do not have."""
    async with stoppable(serving) as running:
        connection = await running.send(HEAD)
        sending = asyncio.create_task(endlessly(connection, ""))
        await until_executed(running, 10 * GROUP)
        shutdown = running.begin_shutdown()
        reply = await read_reply(connection[0], "POST")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        connection[1].close()
        await shutdown
    check_early_end(reply, len(reply.lines) - 1)
    async with open_store(sqlite_url, exclusive=False) as database:
        assert await database.records.get(f"{len(reply.lines) - 1:032X}") is not None
        assert await database.records.get(f"{len(reply.lines):032X}") is None


async def test_batch_that_is_complete_soon_is_executed(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "SHUTDOWN_SECONDS", 100)
    async with stoppable(serving) as running:
        reader, writer = await running.send(HEAD, creations(1, GROUP + 2))
        await until_executed(running, GROUP)
        shutdown = running.begin_shutdown()
        await running.until_draining()
        writer.write(creations(GROUP + 3, 2) + b"0\r\n\r\n")
        reply = await read_reply(reader, "POST")
        assert [result["status"] for result in reply.lines] == [201] * (GROUP + 4)
        await shutdown
