"""What five hundred clients that drip headers, and as many that drip bodies, do to the others: `python -m bench.slow`.

The p99 of normal requests, at a steady rate, without them and with them, in turns; and how soon they are hung up on.
"""

import asyncio
import os
import statistics
import time

from bench import records, wrk
from bench.contenders.fixed import GUID
from bench.running import LOAD_CORE, SERVER_CORE, Running, service

DRIPPERS = 500
ROUNDS = 5
SECONDS = 6
TIMEOUT = 3
_HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
_BODY = f"PUT /guid/{GUID} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n".encode()


def main() -> None:
    """Measure, and print."""
    quiet, dripping, lives = [], [], []
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    options = ("--head-timeout", str(TIMEOUT), "--body-timeout", str(TIMEOUT))
    with service(*options, core=SERVER_CORE) as running:
        records.put_in(running, 0, 1000)
        for _ in range(ROUNDS):
            quiet.append(_normal(running))
            among, lived = asyncio.run(_among_drippers(running))
            dripping.append(among)
            lives += lived
    for what, found in (("alone", quiet), (f"among {2 * DRIPPERS} that drip", dripping)):
        rate, p99 = (statistics.median(getattr(each, name) for each in found) for name in ("rate", "p99"))
        print(f"normal requests {what}: {rate:,.0f}/s, p99 {p99:.2f} ms")
    ratio = statistics.median(each.p99 for each in dripping) / statistics.median(each.p99 for each in quiet)
    print(f"p99 is {ratio:.2f} times as long (aim: under 2)")
    print(f"hung up on after {statistics.median(lives):.1f} s, at most {max(lives):.1f} s (the limit is {TIMEOUT} s)")


def _normal(running: Running) -> wrk.Measured:
    """Ask as most clients do: reads and some updates, with pauses."""
    return wrk.load(running.port, "/", SECONDS, script="mix", variables={"KEYS": 1000, "WRITES": 0.05, "PAUSE": 10})


async def _among_drippers(running: Running) -> tuple[wrk.Measured, list[float]]:
    over = asyncio.Event()
    drippers = [
        asyncio.create_task(_drip(running.port, start, over)) for start in (_HEAD, _BODY) for _ in range(DRIPPERS)
    ]
    await asyncio.sleep(0.5)  # until all are there
    found = await asyncio.to_thread(_normal, running)
    over.set()
    lives = [life for lived in await asyncio.gather(*drippers) for life in lived]
    return found, lives


async def _drip(port: int, start: bytes, over: asyncio.Event) -> list[float]:
    """Send a byte each second, and come back whenever that is ended; return how long that took each time."""
    lived = []
    while not over.is_set():
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        ended = asyncio.create_task(reader.read())
        while not ended.done() and not over.is_set():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=1)
        if ended.done():
            lived.append(time.monotonic() - begun)
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
        writer.close()
    return lived


if __name__ == "__main__":
    main()
