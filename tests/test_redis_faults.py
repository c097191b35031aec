"""Redis killed, paused and flushed under load, with two processes on one store: reads go on, and none is stale."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from tests.client import Client
from tests.history import History
from tests.servers import Server, service

GUIDS = [f"{number:032X}" for number in range(3)]
MARKS = itertools.count()
CALM = 60
"""So many more writes are acknowledged after a fault is over, before the next one comes."""


class Load:
    """Readers and writers of the same few GUIDs, through both processes, until it is told to stop."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self.history = History()
        self.over = False

    async def write(self, guid: str, client: Client) -> None:
        """Write over and over, and note what was promised."""
        while not self.over:
            mark = f"write {next(MARKS)}"
            reply = await client.put(f"/guid/{guid}", {"user": mark})
            if reply.status in {200, 201}:
                self.history.wrote(guid, int(reply.headers["ETag"].strip('"')))
            elif reply.status == 503:
                self.history.refuse(mark)
            else:
                assert reply.status == 504, reply
                self.history.unknown += 1

    async def read(self, guid: str, client: Client) -> None:
        """Read over and over: every read is answered, from the cache or from the store."""
        while not self.over:
            floor = self.history.floor(guid)
            reply = await client.get(f"/guid/{guid}")
            assert reply.status == 200 or (reply.status, floor) == (404, 0), reply
            if reply.status == 200:
                self.history.read(guid, int(reply.headers["ETag"].strip('"')), reply.json["user"], floor)

    async def calm(self) -> None:
        """Return when both processes have Redis again, and writes go through."""
        for client in self._clients:
            while (await client.get("/readyz")).json["status"] != "ready":
                await asyncio.sleep(0)
        reached = self.history.writes + CALM
        while self.history.writes < reached:
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
    reached = load.history.reads + 300
    while load.history.reads < reached:
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
        tasks = [asyncio.create_task(job(*place)) for place in places for job in (load.write, load.read)]
        try:
            await load.calm()
            for _ in range(2):
                await fault(own_redis, load)
        finally:
            load.over = True
            await asyncio.gather(*tasks)
        for guid, client in places:
            reply = await client.get(f"/guid/{guid}")
            load.history.read(guid, int(reply.headers["ETag"].strip('"')), reply.json["user"], load.history.floor(guid))
        for client in clients:
            await client.aclose()

    assert load.history.violations == []
    assert load.history.writes >= 3 * CALM
