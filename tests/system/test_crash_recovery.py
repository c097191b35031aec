"""A crash during many writes loses no acknowledged write, and the next start needs no repair."""

import asyncio
import json
import signal
import sqlite3
from contextlib import closing, suppress
from http.client import SERVICE_UNAVAILABLE
from pathlib import Path

import pytest

from tests.support.backing_servers import service
from tests.support.http_client import Client

WRITERS = 16
WRITES_BEFORE_CRASH = 300
"""The writes that are acknowledged before the crash; others are interrupted at any point."""


class WriteLoad:
    """Clients that create, update and delete GUIDs of their own, and record the acknowledged state of each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acknowledged: dict[str, str | None] = {}
        self.in_flight: dict[str, str | None] = {}
        self.count = 0

    async def run(self, writer: int) -> None:
        """Write until the connection breaks."""
        with suppress(ConnectionError):
            for number in range(1_000_000):
                guid = f"{writer:016X}{number // 3:016X}"
                await self._write(guid, None if number % 3 == 2 else f"user {number}")

    async def _write(self, guid: str, user: str | None) -> None:
        self.in_flight[guid] = user
        if user is None:
            reply = await self._client.delete(f"/guid/{guid}")
        else:
            reply = await self._client.put(f"/guid/{guid}", {"user": user})
        if reply.status == SERVICE_UNAVAILABLE:  # the service was already shutting down
            raise ConnectionAbortedError
        assert reply.status in {200, 201, 204}
        self.acknowledged[guid] = user
        del self.in_flight[guid]
        self.count += 1


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
@pytest.mark.parametrize("rounds", [1, 2, 3])
async def test_acknowledged_write_survives_a_crash(tmp_path: Path, signal_: signal.Signals, rounds: int) -> None:
    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        load = WriteLoad(client)
        writers = [asyncio.create_task(load.run(number)) for number in range(WRITERS)]
        while load.count < WRITES_BEFORE_CRASH * rounds:
            await asyncio.sleep(0)
        running.process.send_signal(signal_)
        await asyncio.gather(*writers)
        assert await asyncio.to_thread(running.process.wait) == (0 if signal_ == signal.SIGTERM else -signal_)
        await client.aclose()
    assert load.in_flight, "no write was in flight"
    with service(tmp_path) as restarted:
        client = Client(restarted.port)
        for guid, user in load.acknowledged.items():
            reply = await client.get(f"/guid/{guid}")
            stored = json.loads(reply.body).get("user") if reply.status == 200 else None
            possible = {user} if signal_ == signal.SIGTERM else {user, load.in_flight.get(guid, user)}
            assert stored in possible, guid
        await client.aclose()
    with closing(sqlite3.connect(tmp_path / "guidsvc.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_interrupted_creation_is_executed_once_on_retry(tmp_path: Path) -> None:
    responses: dict[str, bytes] = {}
    keys: list[str] = []

    async def create(client: Client) -> None:
        """Create records, each with a new key, until the connection breaks."""
        with suppress(ConnectionError):
            while True:
                keys.append(key := f"key-{len(keys)}")
                reply = await client.post("/guid", {"user": key}, headers={"Idempotency-Key": key})
                assert reply.status == 201
                responses[key] = reply.body

    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        writers = [asyncio.create_task(create(client)) for _ in range(WRITERS)]
        while len(responses) < WRITES_BEFORE_CRASH:
            await asyncio.sleep(0)
        running.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*writers)
        await asyncio.to_thread(running.process.wait)
        await client.aclose()
    assert len(keys) > len(responses), "no creation was in flight"
    with service(tmp_path, "--no-access-log") as restarted:
        client = Client(restarted.port)
        for key in keys:
            reply = await client.post("/guid", {"user": key}, headers={"Idempotency-Key": key})
            assert reply.status == 201, reply
            assert responses.setdefault(key, reply.body) == reply.body
        listed = (await client.get("/guid", headers={"Accept": "application/x-ndjson"})).lines
        assert sorted(record["user"] for record in listed) == sorted(keys)
        await client.aclose()
