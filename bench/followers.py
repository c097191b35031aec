"""What five hundred streams of events cost, and how soon an event arrives: `python -m bench.followers`.

Cached reads without streams and beside 500 that have nothing to say, in turns; the CPU time that these take; and the
time from the acknowledgement of a write to its event at a stream, alone and among 499 others that select nothing.
"""

import asyncio
import json
import os
import statistics
import time
from contextlib import AsyncExitStack
from http.client import OK

from bench import wrk
from bench.contenders.fixed import GUID
from bench.running import LOAD_CORE, SERVER_CORE, Running, service
from tests.support.event_reader import LINES, StreamReader, reading

STREAMS, OF_AN_ADDRESS = 500, 31
"""The default of --max-streams, and a sixteenth of it."""
ROUNDS, SECONDS = 5, 3
IDLE_SECONDS = 20
"""Longer than the time between two bookmarks."""
WRITES, PAUSE = 400, 0.01


def main() -> None:
    """Measure, and print."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with service(core=SERVER_CORE) as running:
        _write(running, 1)
        asyncio.run(_measure(running))


async def _measure(running: Running) -> None:
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(await _reads(running))
        async with AsyncExitStack() as stack:
            await _open(stack, running, STREAMS)
            beside.append(await _reads(running))
    for what, found in (("without streams", alone), (f"beside {STREAMS} idle streams", beside)):
        rate, p99 = (statistics.median(getattr(each, name) for each in found) for name in ("rate", "p99"))
        print(f"cached reads {what}: {rate:,.0f}/s, p99 {p99:.2f} ms")
    ratio = statistics.median(each.rate for each in beside) / statistics.median(each.rate for each in alone)
    print(f"{ratio:.3f} of the rate (aim: at least 0.9)")
    await _idle(running)
    for others in (0, STREAMS - 1):
        await _latency(running, others)


async def _reads(running: Running) -> wrk.Measured:
    return await asyncio.to_thread(wrk.load, running.port, f"/guid/{GUID}", SECONDS)


async def _open(stack: AsyncExitStack, running: Running, count: int) -> None:
    """Open streams that select nothing, from several addresses."""
    for number in range(count):
        host = f"127.0.0.{2 + number // OF_AN_ADDRESS}"
        query = "?from=now&follow=true&type=guid.purged"
        stream = await stack.enter_async_context(reading(running.port, query, LINES, host=host))
        if stream.status != OK:
            raise RuntimeError(f"a stream of events was answered {stream.status}")


async def _idle(running: Running) -> None:
    before = running.mib
    async with AsyncExitStack() as stack:
        await _open(stack, running, STREAMS)
        memory_kib = (running.mib - before) * 1024 / STREAMS
        start = running.cpu_seconds
        await asyncio.sleep(IDLE_SECONDS)
        share = (running.cpu_seconds - start) / IDLE_SECONDS
    print(f"{STREAMS} idle streams: {share:.1%} of a core, about {memory_kib:.0f} KiB each")


async def _latency(running: Running, others: int) -> None:
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(reading(running.port, "?from=now&follow=true", LINES))
        await _open(stack, running, others)
        arrivals: dict[str, float] = {}
        arriving = asyncio.create_task(_note(stream, arrivals))
        acknowledged = await asyncio.to_thread(_write, running, WRITES)
        await asyncio.wait_for(arriving, 30)
    late = sorted(1e3 * max(0.0, arrivals[version] - at) for version, at in acknowledged.items())
    p50, p99 = late[len(late) // 2], late[len(late) * 99 // 100]
    print(f"from an acknowledgement to its event, among {others} other streams: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


async def _note(stream: StreamReader, arrivals: dict[str, float]) -> None:
    while len(arrivals) < WRITES:
        event = await stream.line()
        if event["type"] != "bookmark":
            arrivals[event["version"]] = time.monotonic()


def _write(running: Running, count: int) -> dict[str, float]:
    """Change a GUID many times; return when each version was acknowledged."""
    acknowledged: dict[str, float] = {}
    connection = running.connect()
    for number in range(count):
        connection.request("PUT", f"/guid/{GUID}", json.dumps({"user": f"user {number} {time.monotonic()}"}))
        response = connection.getresponse()
        response.read()
        acknowledged[str(response.headers["ETag"]).strip('"')] = time.monotonic()
        time.sleep(PAUSE)
    connection.close()
    return acknowledged


if __name__ == "__main__":
    main()
