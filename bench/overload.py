"""Goodput of the service at ten times its peak load: `python -m bench.overload`.

The load consists of creations with an Idempotency-Key, the most expensive simple requests: three commits each. They
are sent at a constant rate, whatever happens to earlier ones (open loop), each on a free connection or a new one. The
response time counts from the time at which the request was due. A client gives up after three seconds and disconnects.
First the rate is raised until the service does not keep up: the highest rate that it served in time is its peak. Then
ten times the peak is offered, and then half of the peak, to measure the time to recovery.

The service has one core, and the load generator the other. All figures are counted by the load generator.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import uvloop

from bench.running import LOAD_CORE, SERVER_CORE, Running, service

OVERLOAD_FACTOR = 10
PATIENCE_SECONDS = 3.0
"""Seconds after which the client gives up and disconnects."""
CONNECTIONS = 2000
"""Maximum number of connections; a request without a free one counts as failed."""
FIRST_RATE, STEP, STEP_SECONDS = 200.0, 1.3, 3
"""The first rate, the factor by which it is raised, and the duration of each step."""
KEPT_UP_SHARE = 0.8
"""A rate is too high if a smaller share than this is served in time."""
OVERLOAD_SECONDS, AFTER_SECONDS = 10, 10
AFTER_SHARE = 0.5
BUCKET_SECONDS = 0.25
RECOVERED_SHARE = 0.99
TICK_SECONDS, LOOK_SECONDS = 0.002, 0.05


class Outcomes(NamedTuple):
    """The offered rate, the rate that was served in time, and the number of requests by outcome."""

    offered: float
    goodput: float
    outcomes: Counter[str]


def main() -> None:
    """Measure, and print."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with service(core=SERVER_CORE) as running, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(running))


async def _measure(running: Running) -> None:
    peak, peak_us = await _peak(running)
    print(f"peak: {peak:,.0f}/s answered within {PATIENCE_SECONDS:.0f} s, {peak_us:.0f} us of processor each")
    load, cpu_before = Load(running.port), running.cpu_seconds
    await load.offer(OVERLOAD_FACTOR * peak, OVERLOAD_SECONDS)
    cpu_spent = running.cpu_seconds - cpu_before
    await load.offer(AFTER_SHARE * peak, AFTER_SECONDS)
    await load.end()
    overload = load.outcomes_between(0, OVERLOAD_SECONDS)
    buckets = [
        load.outcomes_between(start, start + BUCKET_SECONDS) for start in _starts(OVERLOAD_SECONDS, AFTER_SECONDS)
    ]
    recovered = next((index for index in range(len(buckets)) if _has_recovered(buckets[index:])), len(buckets))
    overload_us = cpu_spent / max(1, overload.outcomes["in time"]) * 1e6
    print(
        f"{OVERLOAD_FACTOR} times that, offered: {overload.offered:,.0f}/s for {OVERLOAD_SECONDS} s, "
        f"{dict(overload.outcomes)}"
    )
    print(
        f"goodput: {overload.goodput:,.0f}/s, {overload.goodput / peak:.0%} of the peak (aim: 90 % or more), "
        f"{overload_us:.0f} us each"
    )
    print(
        f"recovered {recovered * BUCKET_SECONDS:.2f} s after it (aim: 5 s); "
        f"the load itself was late by {load.late:.3f} s"
    )


def _starts(first: float, seconds: float) -> Sequence[float]:
    return [first + index * BUCKET_SECONDS for index in range(int(seconds / BUCKET_SECONDS))]


def _has_recovered(buckets: Sequence[Outcomes]) -> bool:
    return bool(buckets) and all(bucket.goodput >= RECOVERED_SHARE * bucket.offered for bucket in buckets)


async def _peak(running: Running) -> tuple[float, float]:
    """Raise the rate until it is too high; return the highest goodput, and its CPU time per request in us."""
    best, best_us, rate = 0.0, 0.0, FIRST_RATE
    while True:
        load, cpu_before = Load(running.port), running.cpu_seconds
        await load.offer(rate, STEP_SECONDS)
        cpu_spent = running.cpu_seconds - cpu_before
        await load.end()
        step = load.outcomes_between(0, STEP_SECONDS)
        print(f"  offered {step.offered:,.0f}/s: {step.goodput:,.0f}/s answered in time, {dict(step.outcomes)}")
        if step.goodput > best:
            best, best_us = step.goodput, cpu_spent / step.outcomes["in time"] * 1e6
        if step.goodput < KEPT_UP_SHARE * step.offered:
            return best, best_us
        rate *= STEP


class Load:
    """Sends requests at a constant rate, and records their outcomes by the time at which they were due."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening = 0
        self._sent = 0
        self._start = self._loop.time()
        self._outcomes: dict[int, Counter[str]] = {}
        self.late = 0.0
        """The maximum delay behind its own schedule, in seconds."""

    async def offer(self, rate: float, seconds: float) -> None:
        """Send requests at this rate for some seconds."""
        start = self._loop.time()
        count, sent, last_look = int(rate * seconds), 0, 0.0
        while sent < count:
            now = self._loop.time() - start
            due = min(count, int(now * rate) + 1)
            for number in range(sent, due):
                self._ask(start + number / rate)
            if due > sent:
                self.late = max(self.late, now - sent / rate)
            sent = due
            if now - last_look > LOOK_SECONDS:
                self._give_up()
                last_look = now
            await asyncio.sleep(TICK_SECONDS)

    async def end(self) -> None:
        """Wait for requests in flight, and disconnect."""
        await asyncio.sleep(PATIENCE_SECONDS)
        self._give_up()
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0.1)

    def outcomes_between(self, start: float, end: float) -> Outcomes:
        """Return the outcomes of requests that were due in this period, in seconds since the start."""
        outcomes: Counter[str] = Counter()
        for bucket in range(round(start / BUCKET_SECONDS), round(end / BUCKET_SECONDS)):
            outcomes += self._outcomes.get(bucket, Counter())
        return Outcomes(outcomes.total() / (end - start), outcomes["in time"] / (end - start), outcomes)

    def note(self, due: float, outcome: str) -> None:
        """Record the outcome of a request."""
        if outcome == "in time" and self._loop.time() - due > PATIENCE_SECONDS:
            outcome = "late"
        self._outcomes.setdefault(int((due - self._start) / BUCKET_SECONDS), Counter())[outcome] += 1

    def free(self, connection: "_Connection") -> None:
        """Return a connection to the idle ones after a response."""
        self._idle.append(connection)

    def lost(self, connection: "_Connection") -> None:
        """Forget a connection."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _ask(self, due: float) -> None:
        self._sent += 1
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closing:
                connection.ask(due, self._request())
                return
        if len(self._all) >= CONNECTIONS:
            self.note(due, "no connection")
            return
        connection = _Connection(self, due, self._request())
        self._all.add(connection)
        opening = self._loop.create_task(self._open(connection))
        connection.opening = opening

    async def _open(self, connection: "_Connection") -> None:
        try:
            await self._loop.create_connection(lambda: connection, "127.0.0.1", self._port)
        except OSError:
            connection.fail("not connected")

    def _request(self) -> bytes:
        body = b'{"user": "Cylance, Inc."}'
        return (
            b"POST /guid HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: %x-%d\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (id(self), self._sent, len(body), body)
        )

    def _give_up(self) -> None:
        """Disconnect where a response is overdue."""
        latest = self._loop.time() - PATIENCE_SECONDS
        for connection in [
            connection for connection in self._all if connection.due is not None and connection.due < latest
        ]:
            connection.fail("given up")


class _Connection(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self, load: Load, due: float, request: bytes) -> None:
        self._load = load
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self.due: float | None = due
        self.opening: asyncio.Task[None] | None = None

    @property
    def is_closing(self) -> bool:
        """Whether the connection is unusable."""
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a socket's
        if self.due is None:  # given up
            self.abort()
        else:
            transport.write(self._request)  # type: ignore[attr-defined]

    def ask(self, due: float, request: bytes) -> None:
        """Send a request."""
        self.due = due
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        head, separator, body = received.partition(b"\r\n\r\n")
        if not separator or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            return
        self._received = b""
        due, self.due = self.due, None
        if due is not None:
            self._load.note(due, "in time" if received.startswith(b"HTTP/1.1 2") else received[9:12].decode())
            self._load.free(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.fail("cut off")

    def fail(self, outcome: str) -> None:
        """Record a request without a response, and disconnect."""
        due, self.due = self.due, None
        if due is not None:
            self._load.note(due, outcome)
        self._load.lost(self)
        self.abort()

    def abort(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.abort()


if __name__ == "__main__":
    main()
