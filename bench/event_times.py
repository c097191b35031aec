"""The delay of events on a stream, on each store: `python -m bench.event_times`.

It measures the time from the response to a write to its event, and from the second of an expiry to its event. Instead
of MongoDB it runs SecantusDB, so these figures show the share of the service; a real MongoDB adds its own time.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import arrivals
from bench.running import LOAD_CORE, SERVER_CORE, Running, service
from tests.support.backing_servers import mongo_server
from tests.support.event_reader import LINES, reading

EXPIRIES = 300
SQLITE_MS, MONGO_MS = 50, 600
"""Aims for the p99 of the time from a response to its event."""
AIM_SECONDS = 2.5
"""Aim for the event of an expiry, counted from the second of the expiry."""
FOLLOW = "?from=now&follow=true"


def main() -> None:
    """Measure, and print."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with service(core=SERVER_CORE) as running:
        asyncio.run(_measure(running, "SQLite", SQLITE_MS))
    with _mongo_url() as url, service("--store-url", url, core=SERVER_CORE) as running:
        asyncio.run(_measure(running, "the protocol of MongoDB", MONGO_MS))


@contextmanager
def _mongo_url() -> Iterator[str]:
    with TemporaryDirectory() as folder, mongo_server(Path(folder)) as server:
        yield f"mongodb://127.0.0.1:{server.port}/guidsvc?directConnection=true"


async def _measure(running: Running, store: str, aim_ms: int) -> None:
    async with reading(running.port, FOLLOW, LINES) as stream:
        delays = await arrivals.after_writes(stream, running)
    p50, p99 = (arrivals.percentile(delays, percent) for percent in (50, 99))
    print(f"{store}: from a response to its event: p50 {p50:.1f} ms, p99 {p99:.1f} ms (aim: at most {aim_ms})")
    async with reading(running.port, f"{FOLLOW}&type=guid.expired", LINES) as stream:
        delays = await arrivals.after_expiries(stream, running, EXPIRIES)
    print(f"{store}: from an expiry to its event: {delays[0]:.2f} to {delays[-1]:.2f} s (aim: at most {AIM_SECONDS})")


if __name__ == "__main__":
    main()
