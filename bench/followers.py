"""The cost of five hundred event streams, and the delay of events: `python -m bench.followers`.

It measures cached reads without streams and beside 500 idle ones, in turns; the CPU time of idle streams; and the time
from the response to a write to its event on a stream, alone and among 499 others that select nothing. Then it requests
one stream beyond the limit, and stops the service.
"""

import asyncio
import os
import statistics
import time
from contextlib import AsyncExitStack
from http import HTTPStatus

from bench import arrivals, wrk
from bench.contenders.fixed import GUID
from bench.running import LOAD_CORE, SERVER_CORE, Running, service
from tests.support.event_reader import LINES, StreamReader, reading

STREAMS, OF_AN_ADDRESS = 500, 31
"""The default of --max-streams, and a sixteenth of it."""
ROUNDS, SECONDS = 5, 3
IDLE_SECONDS = 20
"""Longer than the time between two bookmarks."""
AIM_MS, AIM_END_SECONDS = 50, 1
"""Aims for the p99 of one stream, and for the end of all streams."""


def main() -> None:
    """Measure, and print."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with service(core=SERVER_CORE) as running:
        arrivals.write(running, 1)
        asyncio.run(_measure(running))


async def _measure(running: Running) -> None:
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(await _reads(running))
        async with AsyncExitStack() as stack:
            await _open(stack, running, STREAMS)
            beside.append(await _reads(running))
    for label, measured in (("without streams", alone), (f"beside {STREAMS} idle streams", beside)):
        rate, p99 = (statistics.median(getattr(load, name) for load in measured) for name in ("rate", "p99"))
        print(f"cached reads {label}: {rate:,.0f}/s, p99 {p99:.2f} ms")
    ratio = statistics.median(load.rate for load in beside) / statistics.median(load.rate for load in alone)
    print(f"{ratio:.3f} of the rate (aim: at least 0.9)")
    await _idle(running)
    for others in (0, STREAMS - 1):
        await _latency(running, others)
    await _limit(running)


async def _reads(running: Running) -> wrk.Measured:
    return await asyncio.to_thread(wrk.load, running.port, f"/guid/{GUID}", SECONDS)


async def _open(stack: AsyncExitStack, running: Running, count: int) -> list[StreamReader]:
    """Open streams that select nothing, from several addresses."""
    streams = []
    for number in range(count):
        host = f"127.0.0.{2 + number // OF_AN_ADDRESS}"
        query = "?from=now&follow=true&type=guid.purged"
        stream = await stack.enter_async_context(reading(running.port, query, LINES, host=host))
        if stream.status != HTTPStatus.OK:
            raise RuntimeError(f"the response to a request for an event stream is {stream.status}")
        streams.append(stream)
    return streams


async def _idle(running: Running) -> None:
    memory_before = running.mib
    async with AsyncExitStack() as stack:
        await _open(stack, running, STREAMS)
        memory_kib = (running.mib - memory_before) * 1024 / STREAMS
        start = running.cpu_seconds
        await asyncio.sleep(IDLE_SECONDS)
        share = (running.cpu_seconds - start) / IDLE_SECONDS
    print(f"{STREAMS} idle streams: {share:.1%} of a core, about {memory_kib:.0f} KiB each")


async def _latency(running: Running, others: int) -> None:
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(reading(running.port, "?from=now&follow=true", LINES))
        await _open(stack, running, others)
        delays = await arrivals.after_writes(stream, running)
    p50, p99 = (arrivals.percentile(delays, percent) for percent in (50, 99))
    print(f"from a response to its event, among {others} other streams: p50 {p50:.1f} ms, p99 {p99:.1f} ms", end="")
    print("" if others else f" (aim: at most {AIM_MS})")


async def _limit(running: Running) -> None:
    """Request one stream more than the limit; then stop the service, and check how its streams end."""
    async with AsyncExitStack() as stack:
        streams = await _open(stack, running, STREAMS)
        connection = running.connect()
        connection.request("GET", "/events?follow=true", headers=LINES)
        status = connection.getresponse().status
        print(f"one stream more than {STREAMS}: {status} ({HTTPStatus.TOO_MANY_REQUESTS:d} expected)")
        start = time.monotonic()
        running.process.terminate()
        ends = await asyncio.gather(*(_end_of(stream, start) for stream in streams))
    regular = sum(is_bookmark for _, is_bookmark in ends)
    print(f"after SIGTERM, {regular} of {STREAMS} streams ended with a bookmark, the last one ", end="")
    print(f"after {max(seconds for seconds, _ in ends):.2f} s (aim: at most {AIM_END_SECONDS})")


async def _end_of(stream: StreamReader, start: float) -> tuple[float, bool]:
    """Read a stream to its end; return the seconds until then, and whether the end was regular."""
    lines = await stream.lines()
    is_regular = not stream.is_cut_off and bool(lines) and lines[-1]["type"] == "bookmark"
    return time.monotonic() - start, is_regular


if __name__ == "__main__":
    main()
