"""What clients see while Redis is refused, silent, slow or cut in the middle of a reply: `python -m bench.redis_down`.

A service on SQLite and Redis, with a proxy between them and Redis; readers and writers of a few GUIDs all the while.
Told are the reads that were answered, how long the first writes took and the later ones, and how soon the cache is used
again when Redis is well, with no hand laid on it.
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
from tests.support.network_proxy import Proxy, Spoil, Way, proxy

GUIDS = [f"{number:032X}" for number in range(20)]
FAULT_SECONDS = 12.0
PAUSE = 0.002
"""Between two requests of a client."""


@dataclass
class Seen:
    """What clients saw while something was wrong."""

    reads: int = 0
    failed: int = 0
    writes: list[float] = field(default_factory=list)
    """How long each took, in the order of their ends."""
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
    "swallows replies": lambda way, _: way.black_hole(Way.TO_CLIENT),
    "slow by 0.5 s": lambda way, _: way.slow(0.5),
    "cut in mid reply": lambda way, _: way.spoiling(Spoil.CUT),
}


async def main() -> None:
    """Measure, and print."""
    print(f"{'Redis is':18} reads  answered  longest write at the change  median of later writes  cache back after")
    for name, fault in FAULTS.items():
        with TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
            async with proxy(redis.port, random.Random(1)) as way:
                url = f"redis://127.0.0.1:{way.port}/0"
                with service(Path(folder), "--cache-url", url, "--no-access-log", "--log-level", "error") as ours:
                    await _measure(name, fault(way, redis), ours.port, Path(folder) / "guidsvc.db")


async def _measure(name: str, fault: AbstractContextManager[None], port: int, file: Path) -> None:
    client, seen = Client(port), Seen()
    for guid in GUIDS:
        await client.put(f"/guid/{guid}", {"user": "first"})
    await _until_on(file)
    with fault:
        end = time.monotonic() + FAULT_SECONDS
        clients = [_reads(client, seen, end) for _ in range(4)] + [_writes(client, seen, end, each) for each in GUIDS]
        await asyncio.gather(*clients)
    well = time.monotonic()
    back = asyncio.create_task(_until_on(file))
    while not back.done():  # without a write nobody would have to know that Redis was away
        await client.get(f"/guid/{GUIDS[0]}")
        await asyncio.sleep(PAUSE)
    first, later = seen.writes[: len(GUIDS)], seen.writes[len(GUIDS) :]
    answered = 100 * (1 - seen.failed / seen.reads)
    print(
        f"{name:18} {seen.reads:6,} {answered:7.2f} % {max(first):18.2f} s {1000 * statistics.median(later):24.1f} ms "
        f"{time.monotonic() - well:19.1f} s" + (f"  ({seen.refused} writes refused)" if seen.refused else "")
    )
    await client.aclose()


async def _reads(client: Client, seen: Seen, end: float) -> None:
    while time.monotonic() < end:
        seen.reads += 1
        reply = None
        with suppress(ConnectionError):
            reply = await client.get(f"/guid/{random.choice(GUIDS)}")
        seen.failed += reply is None or reply.status != 200  # noqa: PLR2004
        await asyncio.sleep(PAUSE)


async def _writes(client: Client, seen: Seen, end: float, guid: str) -> None:
    number = 0
    while time.monotonic() < end:
        number += 1
        begun = time.monotonic()
        reply = await client.put(f"/guid/{guid}", {"user": f"write {number}"})
        if reply.status == 200:  # noqa: PLR2004
            seen.writes.append(time.monotonic() - begun)
        else:
            seen.refused += 1
        await asyncio.sleep(10 * PAUSE)


async def _until_on(file: Path) -> None:
    while True:
        with closing(sqlite3.connect(file)) as connection:
            if connection.execute("SELECT mode FROM fence").fetchone() == ("on",):
                return
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
