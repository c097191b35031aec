"""Redis killed, paused and flushed under load, with two processes on one store: reads go on, and none is stale."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from tests.checker import Operation, Outcome, Read, Write, check
from tests.client import Client
from tests.servers import Server, service

GUIDS = [f"{number:032X}" for number in range(3)]
MARKS = itertools.count()
CALM = 60
"""So many more writes are acknowledged after a fault is over, before the next one comes."""


class Load:
    """Readers and writers of the same few GUIDs, through both processes, until it is told to stop."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self.history: list[Operation] = []
        self.reads = self.writes = 0
        self.over = False

    async def write(self, guid: str, client: Client) -> None:
        """Write over and over, and note what was promised."""
        while not self.over:
            start, mark, outcome, version = time.monotonic(), f"write {next(MARKS)}", Outcome.UNKNOWN, None
            reply = await client.put(f"/guid/{guid}", {"user": mark})
            if reply.status in {200, 201}:
                outcome, version = Outcome.OK, int(reply.headers["ETag"].strip('"'))
                self.writes += 1
            elif reply.status == 503:
                outcome = Outcome.NO
            else:
                assert reply.status == 504, reply
            self.history.append(Write(guid, start, time.monotonic(), str(client.port), mark, outcome, version))

    async def read_on(self, guid: str, client: Client) -> None:
        """Read over and over."""
        while not self.over:
            self.history.append(await self.read(guid, client))
            self.reads += 1

    async def read(self, guid: str, client: Client) -> Read:
        """Read once: every read is answered, from the cache or from the store."""
        start = time.monotonic()
        reply = await client.get(f"/guid/{guid}")
        end, process = time.monotonic(), str(client.port)
        if reply.status == 404:
            return Read(guid, start, end, process, None)
        assert reply.status == 200, reply
        return Read(guid, start, end, process, int(reply.headers["ETag"].strip('"')), reply.json["user"])

    async def calm(self) -> None:
        """Return when both processes have Redis again, and writes go through."""
        for client in self._clients:
            while (await client.get("/readyz")).json["status"] != "ready":
                await asyncio.sleep(0)
        reached = self.writes + CALM
        while self.writes < reached:
            await asyncio.sleep(0)


async def flush(server: Server, load: Load) -> None:
    for _ in range(5):
        await asyncio.to_thread(redis.Redis(port=server.port).flushall)
        await load.calm()


async def pause(server: Server, load: Load) -> None:
    server.pause()
    await some_reads(load)
    server.resume()
    await load.calm()


async def kill(server: Server, load: Load) -> None:
    server.kill()
    await some_reads(load)
    await asyncio.to_thread(server.start)
    await load.calm()


async def some_reads(load: Load) -> None:
    """Return when reads have gone on for a while without Redis."""
    reached = load.reads + 300
    while load.reads < reached:
        await asyncio.sleep(0)


@pytest.mark.parametrize("fault", [flush, pause, kill])
async def test_reads_go_on_and_none_is_stale(
    own_redis: Server, tmp_path: Path, fault: Callable[[Server, Load], Awaitable[None]]
) -> None:
    options = ["--cache-url", f"redis://127.0.0.1:{own_redis.port}/0", "--no-access-log"]
    with service(tmp_path, *options) as one, service(tmp_path, *options) as another:
        clients = [Client(each.port) for each in (one, another)]
        load = Load(clients)
        places = [(guid, client) for guid in GUIDS for client in clients]
        tasks = [asyncio.create_task(job(*place)) for place in places for job in (load.write, load.read_on)]
        try:
            await load.calm()
            for _ in range(2):
                await fault(own_redis, load)
        finally:
            load.over = True
            await asyncio.gather(*tasks)
        final = [await load.read(*place) for place in places]
        for client in clients:
            await client.aclose()

    assert check(load.history, final) == []
    assert load.writes >= 3 * CALM
