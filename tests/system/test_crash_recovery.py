"""The end in the middle of a storm of writes loses none that was acknowledged, and the next start needs no repair."""

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
BEFORE_THE_END = 300
"""So many writes are acknowledged before the process is ended; those under way then are cut off anywhere."""


class Storm:
    """Writers that create, update and delete, each its own GUIDs, and note what was acknowledged of each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acknowledged: dict[str, str | None] = {}
        self.under_way: dict[str, str | None] = {}
        self.count = 0

    async def rage(self, writer: int) -> None:
        """Write until the connection breaks."""
        with suppress(ConnectionError):
            for number in range(1_000_000):
                guid = f"{writer:016X}{number // 3:016X}"
                await self._write(guid, None if number % 3 == 2 else f"user {number}")

    async def _write(self, guid: str, user: str | None) -> None:
        self.under_way[guid] = user
        if user is None:
            reply = await self._client.delete(f"/guid/{guid}")
        else:
            reply = await self._client.put(f"/guid/{guid}", {"user": user})
        if reply.status == SERVICE_UNAVAILABLE:  # it came after the last that the service waited for
            raise ConnectionAbortedError
        assert reply.status in {200, 201, 204}
        self.acknowledged[guid] = user
        del self.under_way[guid]
        self.count += 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
@pytest.mark.parametrize("rounds", [1, 2, 3])
async def test_acknowledged_write_survives_a_crash(tmp_path: Path, end: signal.Signals, rounds: int) -> None:
    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        storm = Storm(client)
        writers = [asyncio.create_task(storm.rage(number)) for number in range(WRITERS)]
        while storm.count < BEFORE_THE_END * rounds:
            await asyncio.sleep(0)
        running.process.send_signal(end)
        await asyncio.gather(*writers)
        assert await asyncio.to_thread(running.process.wait) == (0 if end == signal.SIGTERM else -end)
        await client.aclose()
    assert storm.under_way, "the end came in the middle"
    with service(tmp_path) as again:
        client = Client(again.port)
        for guid, user in storm.acknowledged.items():
            reply = await client.get(f"/guid/{guid}")
            found = json.loads(reply.body).get("user") if reply.status == 200 else None
            possible = {user} if end == signal.SIGTERM else {user, storm.under_way.get(guid, user)}
            assert found in possible, guid
        await client.aclose()
    with closing(sqlite3.connect(tmp_path / "guidsvc.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_interrupted_creation_is_executed_once_on_retry(tmp_path: Path) -> None:
    answers: dict[str, bytes] = {}
    keys: list[str] = []

    async def create(client: Client) -> None:
        """Create under one key after the other until the connection breaks."""
        with suppress(ConnectionError):
            while True:
                keys.append(key := f"key-{len(keys)}")
                reply = await client.post("/guid", {"user": key}, headers={"Idempotency-Key": key})
                assert reply.status == 201
                answers[key] = reply.body

    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        writers = [asyncio.create_task(create(client)) for _ in range(WRITERS)]
        while len(answers) < BEFORE_THE_END:
            await asyncio.sleep(0)
        running.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*writers)
        await asyncio.to_thread(running.process.wait)
        await client.aclose()
    assert len(keys) > len(answers), "the end came in the middle"
    with service(tmp_path, "--no-access-log") as again:
        client = Client(again.port)
        for key in keys:
            reply = await client.post("/guid", {"user": key}, headers={"Idempotency-Key": key})
            assert reply.status == 201, reply
            assert answers.setdefault(key, reply.body) == reply.body
        listed = (await client.get("/guid", headers={"Accept": "application/x-ndjson"})).lines
        assert sorted(record["user"] for record in listed) == sorted(keys)
        await client.aclose()
