"""What is left of the service when ten times as much is asked as it can do: `python -m bench.overload`.

Creations with an Idempotency-Key, which are the dearest of the plain requests: three commits each. They come at a
constant rate, whatever becomes of those before (open loop), each on a connection that is free, or a new one; how long
one takes counts from when it was due. A client gives up after three seconds, and hangs up. First the rate is raised
until the service does not keep up: the most that it answered in time is its peak. Then ten times that is asked, and
then half of it, to see how soon all are answered again.

The service has one core, and what asks it the other; all that is said of what was asked is counted by who asks.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import uvloop

from bench.running import LOAD_CORE, SERVER_CORE, Running, service

TIMES = 10
PATIENCE = 3.0
"""Seconds after which an answer is no use, and its client hangs up."""
CONNECTIONS = 2000
"""So many at most; a request that finds none free is one that is not answered."""
FIRST, STEP, STEP_SECONDS = 200.0, 1.3, 3
"""The rate that is begun with, by what it is raised, and for how long each is asked."""
KEPT_UP = 0.8
"""A rate of which no more than this is answered in time is too high."""
OVERLOAD_SECONDS, AFTER_SECONDS = 10, 10
AFTER = 0.5
BUCKET = 0.25
RECOVERED = 0.99
TICK, LOOK = 0.002, 0.05


class Asked(NamedTuple):
    """What became of what was asked: so many a second were answered in time; and of all, by outcome."""

    offered: float
    goodput: float
    outcomes: Counter[str]


def main() -> None:
    """Measure, and print."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with service(core=SERVER_CORE) as running, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(running))


async def _measure(running: Running) -> None:
    peak, least = await _peak(running)
    print(f"peak: {peak:,.0f}/s answered within {PATIENCE:.0f} s, {least:.0f} us of processor each")
    load, before = Load(running.port), running.cpu_seconds
    await load.offer(TIMES * peak, OVERLOAD_SECONDS)
    spent = running.cpu_seconds - before
    await load.offer(AFTER * peak, AFTER_SECONDS)
    await load.end()
    over = load.told(0, OVERLOAD_SECONDS)
    shares = [load.told(start, start + BUCKET) for start in _starts(OVERLOAD_SECONDS, AFTER_SECONDS)]
    recovered = next((place for place in range(len(shares)) if _is_well(shares[place:])), len(shares))
    each = spent / max(1, over.outcomes["in time"]) * 1e6
    print(f"{TIMES} times that, offered: {over.offered:,.0f}/s for {OVERLOAD_SECONDS} s, {dict(over.outcomes)}")
    print(
        f"goodput: {over.goodput:,.0f}/s, {over.goodput / peak:.0%} of the peak (aim: 90 % or more), {each:.0f} us each"
    )
    print(f"recovered {recovered * BUCKET:.2f} s after it (aim: 5 s); the load itself was late by {load.late:.3f} s")


def _starts(first: float, seconds: float) -> Sequence[float]:
    return [first + place * BUCKET for place in range(int(seconds / BUCKET))]


def _is_well(shares: Sequence[Asked]) -> bool:
    return bool(shares) and all(each.goodput >= RECOVERED * each.offered for each in shares)


async def _peak(running: Running) -> tuple[float, float]:
    """Raise the rate until it is too high; return the most that was answered in time, and us of processor for each."""
    best, least, rate = 0.0, 0.0, FIRST
    while True:
        load, before = Load(running.port), running.cpu_seconds
        await load.offer(rate, STEP_SECONDS)
        spent = running.cpu_seconds - before
        await load.end()
        found = load.told(0, STEP_SECONDS)
        print(f"  offered {found.offered:,.0f}/s: {found.goodput:,.0f}/s answered in time, {dict(found.outcomes)}")
        if found.goodput > best:
            best, least = found.goodput, spent / found.outcomes["in time"] * 1e6
        if found.goodput < KEPT_UP * found.offered:
            return best, least
        rate *= STEP


class Load:
    """Asks at a constant rate, and notes what became of it, by when it was due."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening = 0
        self._asked = 0
        self._begun = self._loop.time()
        self._outcomes: dict[int, Counter[str]] = {}
        self.late = 0.0
        """Seconds by which it was behind its own rate, at worst."""

    async def offer(self, rate: float, seconds: float) -> None:
        """Ask so often, for so long."""
        begun = self._loop.time()
        count, done, looked = int(rate * seconds), 0, 0.0
        while done < count:
            now = self._loop.time() - begun
            due = min(count, int(now * rate) + 1)
            for number in range(done, due):
                self._ask(begun + number / rate)
            if due > done:
                self.late = max(self.late, now - done / rate)
            done = due
            if now - looked > LOOK:
                self._give_up()
                looked = now
            await asyncio.sleep(TICK)

    async def end(self) -> None:
        """Wait for what is under way, and hang up."""
        await asyncio.sleep(PATIENCE)
        self._give_up()
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0.1)

    def told(self, start: float, end: float) -> Asked:
        """Return what became of what was due in this time, in seconds since it began."""
        outcomes: Counter[str] = Counter()
        for bucket in range(round(start / BUCKET), round(end / BUCKET)):
            outcomes += self._outcomes.get(bucket, Counter())
        return Asked(outcomes.total() / (end - start), outcomes["in time"] / (end - start), outcomes)

    def note(self, due: float, outcome: str) -> None:
        """Note what became of a request."""
        if outcome == "in time" and self._loop.time() - due > PATIENCE:
            outcome = "late"
        self._outcomes.setdefault(int((due - self._begun) / BUCKET), Counter())[outcome] += 1

    def free(self, connection: "_Connection") -> None:
        """Take back a connection that has been answered."""
        self._idle.append(connection)

    def lost(self, connection: "_Connection") -> None:
        """Forget a connection."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _ask(self, due: float) -> None:
        self._asked += 1
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
            b"Content-Length: %d\r\n\r\n%b" % (id(self), self._asked, len(body), body)
        )

    def _give_up(self) -> None:
        """Hang up where an answer is overdue."""
        latest = self._loop.time() - PATIENCE
        for connection in [each for each in self._all if each.due is not None and each.due < latest]:
            connection.fail("given up")


class _Connection(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self, load: Load, due: float, request: bytes) -> None:
        self._load = load
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._got = b""
        self.due: float | None = due
        self.opening: asyncio.Task[None] | None = None

    @property
    def is_closing(self) -> bool:
        """Whether it is of no use any more."""
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
        got = self._got = self._got + data
        head, found, body = got.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            return
        self._got = b""
        due, self.due = self.due, None
        if due is not None:
            self._load.note(due, "in time" if got.startswith(b"HTTP/1.1 2") else got[9:12].decode())
            self._load.free(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.fail("cut off")

    def fail(self, outcome: str) -> None:
        """Note a request that is not answered, and hang up."""
        due, self.due = self.due, None
        if due is not None:
            self._load.note(due, outcome)
        self._load.lost(self)
        self.abort()

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()


if __name__ == "__main__":
    main()
