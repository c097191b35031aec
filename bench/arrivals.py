"""Delays of events on a stream: after the response to their write, and after the second of an expiry."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence

from bench.contenders.fixed import GUID
from bench.running import Running
from tests.support.event_reader import StreamReader

WRITES, PAUSE_SECONDS = 400, 0.01
ARRIVE_SECONDS = 60
LIVES = 2, 3, 4, 5, 6
"""The lives of the GUIDs that expire, in seconds."""


async def after_writes(stream: StreamReader, running: Running) -> Sequence[float]:
    """Change a GUID many times; return the sorted delays of the events after the responses, in ms."""
    arriving = asyncio.create_task(_arrivals(stream, WRITES, "version", time.monotonic))
    acknowledged = await asyncio.to_thread(write, running, WRITES)
    arrivals = await asyncio.wait_for(arriving, ARRIVE_SECONDS)
    return sorted(1e3 * max(0.0, arrivals[version] - at) for version, at in acknowledged.items())


async def after_expiries(stream: StreamReader, running: Running, count: int) -> Sequence[float]:
    """Let GUIDs expire; return the sorted delays of the events after the expiries, in seconds."""
    arriving = asyncio.create_task(_arrivals(stream, count, "guid", time.time))
    expiries = await asyncio.to_thread(_lease, running, count)
    arrivals = await asyncio.wait_for(arriving, ARRIVE_SECONDS)
    return sorted(arrivals[guid] - expire for guid, expire in expiries.items())


def percentile(figures: Sequence[float], percent: int) -> float:
    """Return a percentile of sorted figures."""
    return figures[min(len(figures) - 1, len(figures) * percent // 100)]


def write(running: Running, count: int) -> dict[str, float]:
    """Change a GUID many times; return when each version was acknowledged."""
    acknowledged: dict[str, float] = {}
    connection = running.connect()
    for number in range(count):
        connection.request("PUT", f"/guid/{GUID}", json.dumps({"user": f"user {number} {time.monotonic()}"}))
        response = connection.getresponse()
        response.read()
        acknowledged[str(response.headers["ETag"]).strip('"')] = time.monotonic()
        time.sleep(PAUSE_SECONDS)
    connection.close()
    return acknowledged


def _lease(running: Running, count: int) -> dict[str, int]:
    """Create GUIDs with short lives; return when each expires."""
    connection = running.connect()
    expiries = {}
    for number in range(count):
        body = json.dumps({"user": "u", "ttl": LIVES[number % len(LIVES)]})
        connection.request("PUT", f"/guid/{number:032X}", body)
        record: Mapping[str, str] = json.loads(connection.getresponse().read())
        expiries[record["guid"]] = int(record["expire"])
    connection.close()
    return expiries


async def _arrivals(stream: StreamReader, count: int, name: str, clock: Callable[[], float]) -> dict[str, float]:
    """Return the arrival times of events by one of their members."""
    arrivals: dict[str, float] = {}
    while len(arrivals) < count:
        event = await stream.line()
        if event["type"] != "bookmark":
            arrivals[event[name]] = clock()
    return arrivals
