"""The effect of 500 clients that drip headers and 500 that drip bodies on other clients: `python -m bench.slow`.

It measures the p99 of normal requests at a steady rate, without and with the slow clients, in turns; and the time until
these are disconnected.
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
    quiet, dripping, lifetimes = [], [], []
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    options = ("--head-timeout", str(TIMEOUT), "--body-timeout", str(TIMEOUT))
    with service(*options, core=SERVER_CORE) as running:
        records.put_in(running, 0, 1000)
        for _ in range(ROUNDS):
            quiet.append(_normal(running))
            load, connection_lives = asyncio.run(_among_drippers(running))
            dripping.append(load)
            lifetimes += connection_lives
    for label, loads in (("alone", quiet), (f"among {2 * DRIPPERS} that drip", dripping)):
        rate, p99 = (statistics.median(getattr(item, name) for item in loads) for name in ("rate", "p99"))
        print(f"normal requests {label}: {rate:,.0f}/s, p99 {p99:.2f} ms")
    ratio = statistics.median(item.p99 for item in dripping) / statistics.median(item.p99 for item in quiet)
    print(f"p99 is {ratio:.2f} times as long (aim: under 2)")
    print(
        f"disconnected after {statistics.median(lifetimes):.1f} s, at most {max(lifetimes):.1f} s "
        f"(the limit is {TIMEOUT} s)"
    )


def _normal(running: Running) -> wrk.Measured:
    """Send the requests of normal clients: reads and some updates, with pauses."""
    return wrk.load(running.port, "/", SECONDS, script="mix", variables={"KEYS": 1000, "WRITES": 0.05, "PAUSE": 10})


async def _among_drippers(running: Running) -> tuple[wrk.Measured, list[float]]:
    has_ended = asyncio.Event()
    drippers = [
        asyncio.create_task(_drip(running.port, start, has_ended)) for start in (_HEAD, _BODY) for _ in range(DRIPPERS)
    ]
    await asyncio.sleep(0.5)  # until all are connected
    load = await asyncio.to_thread(_normal, running)
    has_ended.set()
    lifetimes = [
        lifetime for lifetimes_of_client in await asyncio.gather(*drippers) for lifetime in lifetimes_of_client
    ]
    return load, lifetimes


async def _drip(port: int, start: bytes, has_ended: asyncio.Event) -> list[float]:
    """Send a byte each second, and reconnect whenever disconnected; return the lifetimes of the connections."""
    lifetimes = []
    while not has_ended.is_set():
        connected_at = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        end = asyncio.create_task(reader.read())
        while not end.done() and not has_ended.is_set():
            writer.write(b"x")
            await asyncio.wait([end], timeout=1)
        if end.done():
            lifetimes.append(time.monotonic() - connected_at)
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)
        writer.close()
    return lifetimes


if __name__ == "__main__":
    main()
