"""Effects on clients while Redis is down, silent, slow or cut off in mid reply: `python -m bench.redis_down`.

A service on SQLite and Redis, with a proxy in front of Redis, serves readers and writers of a few GUIDs. The report
shows the share of successful reads, the time of the first and of later writes, and how soon the cache is used again
once Redis is well, without intervention.
"""

import asyncio
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.backing_servers import Server, redis_server, service
from tests.support.http_client import Client
from tests.support.network_proxy import Damage, Direction, Proxy, proxy

GUIDS = [f"{number:032X}" for number in range(20)]
FAULT_SECONDS = 12.0
PAUSE_SECONDS = 0.002
"""Seconds between two requests of a client."""


@dataclass
class FaultResults:
    """Results of the requests during a fault."""

    reads: int = 0
    failed: int = 0
    writes: list[float] = field(default_factory=list)
    """The duration of each, in the order of their ends."""
    refused: int = 0


@contextmanager
def _refused(_: Proxy, redis: Server) -> Iterator[None]:
    redis.kill()
    yield
    redis.start()


@contextmanager
def _silent(_: Proxy, redis: Server) -> Iterator[None]:
    redis.pause()
    yield
    redis.resume()


FAULTS: dict[str, Callable[[Proxy, Server], AbstractContextManager[None]]] = {
    "refused": _refused,
    "silent": _silent,
    "swallows replies": lambda network, _: network.black_hole(Direction.TO_CLIENT),
    "slow by 0.5 s": lambda network, _: network.slow(0.5),
    "cut in mid reply": lambda network, _: network.damaging(Damage.CUT),
}


async def main() -> None:
    """Measure, and print."""
    print(f"{'Redis is':18} reads  answered  longest write at the change  median of later writes  cache back after")
    for name, fault in FAULTS.items():
        with TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
            async with proxy(redis.port, random.Random(1)) as redis_proxy:
                url = f"redis://127.0.0.1:{redis_proxy.port}/0"
                with service(Path(folder), "--cache-url", url, "--no-access-log", "--log-level", "error") as running:
                    await _measure(name, fault(redis_proxy, redis), running.port, Path(folder) / "guidsvc.db")


async def _measure(name: str, fault: AbstractContextManager[None], port: int, file: Path) -> None:
    client, results = Client(port), FaultResults()
    for guid in GUIDS:
        await client.put(f"/guid/{guid}", {"user": "first"})
    await _until_on(file)
    with fault:
        end = time.monotonic() + FAULT_SECONDS
        clients = [_reads(client, results, end) for _ in range(4)] + [
            _writes(client, results, end, guid) for guid in GUIDS
        ]
        await asyncio.gather(*clients)
    recovered_at = time.monotonic()
    recovery = asyncio.create_task(_until_on(file))
    while not recovery.done():  # requests make the service use Redis again
        await client.get(f"/guid/{GUIDS[0]}")
        await asyncio.sleep(PAUSE_SECONDS)
    first, later = results.writes[: len(GUIDS)], results.writes[len(GUIDS) :]
    success_percent = 100 * (1 - results.failed / results.reads)
    print(
        f"{name:18} {results.reads:6,} {success_percent:7.2f} % {max(first):18.2f} s "
        f"{1000 * statistics.median(later):24.1f} ms "
        f"{time.monotonic() - recovered_at:19.1f} s"
        + (f"  ({results.refused} writes refused)" if results.refused else "")
    )
    await client.aclose()


async def _reads(client: Client, results: FaultResults, end: float) -> None:
    while time.monotonic() < end:
        results.reads += 1
        reply = None
        with suppress(ConnectionError):
            reply = await client.get(f"/guid/{random.choice(GUIDS)}")
        results.failed += reply is None or reply.status != 200  # noqa: PLR2004
        await asyncio.sleep(PAUSE_SECONDS)


async def _writes(client: Client, results: FaultResults, end: float, guid: str) -> None:
    number = 0
    while time.monotonic() < end:
        number += 1
        start = time.monotonic()
        reply = await client.put(f"/guid/{guid}", {"user": f"write {number}"})
        if reply.status == 200:  # noqa: PLR2004
            results.writes.append(time.monotonic() - start)
        else:
            results.refused += 1
        await asyncio.sleep(10 * PAUSE_SECONDS)


async def _until_on(file: Path) -> None:
    while True:
        with closing(sqlite3.connect(file)) as connection:
            if connection.execute("SELECT mode FROM fence").fetchone() == ("on",):
                return
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
