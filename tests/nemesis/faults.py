"""What goes wrong, and when: one to three faults at a time, in different places, with calm in between.

The calm is long enough for the cache to come back, so that there is something in it when the next fault comes.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.nemesis.cluster import Cluster, Host
from tests.support.backing_servers import Server
from tests.support.network_proxy import Proxy, Spoil, Way

FAULT_SECONDS = 0.3, 5.0
CALM_SECONDS = 11.0, 17.0
"""A fence that was let down is up again after some 5 s."""
STORM, LULL_SECONDS = 3, 2.0
"""Faults come up to so many times in a row, with no more than this between them."""
LONG_PAUSE_SECONDS = 12.0, 40.0
"""Beyond all leases, markers and reservations, the longest of which last 30 s."""
LONG_PAUSES = 0.15
"""So large a part of the pauses of a worker is long."""
SLOW_SECONDS = 0.02, 0.4
"""How much later a piece of a slow connection arrives, at the most; Redis counts as down after 0.1 s."""
ANSWERED_SECONDS = 0.5
"""Within which a store has answered what it was asked."""
TO, REDIS, STORE = " to ", "redis", "store"
TO_STORE = f"{TO}mongo"
"""How places are called. The store and a way to it do not fail at the same time: see `_restart_store`."""
CHANCES = 0.02, 1.0
"""How many of the replies are spoilt."""

Fault = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Done:
    """A fault that was done, and where; times are those of the history."""

    name: str
    place: str
    start: float
    end: float

    def __str__(self) -> str:
        """Tell it for a reader."""
        return f"{self.start:.6f} to {self.end:.6f}  nemesis: {self.place}: {self.name}"


class Nemesis:
    """Does the faults, by the random source that it is given, and notes them."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.done: list[Done] = []
        self._cluster = cluster
        self._rng = rng
        self._places = dict(self._all())

    async def rage(self, seconds: float) -> None:
        """Do faults for so long; at the end all is healed."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._rng.uniform(*CALM_SECONDS)))
            for number in range(self._rng.randint(1, STORM)):
                if time.monotonic() < deadline:
                    await self._some(first=number == 0)
                    await asyncio.sleep(self._rng.uniform(0, LULL_SECONDS))

    async def _some(self, *, first: bool) -> None:
        """Do one to three faults at a time, in different places; of the first after a calm one is about Redis."""
        about_redis = [place for place in sorted(self._places) if place.endswith(REDIS)]
        places = self._rng.sample(sorted(self._places), self._rng.choice([1, 1, 2, 3]))
        if first and not set(places) & set(about_redis):
            places[0] = self._rng.choice(about_redis)
        if STORE in places:
            places = [place for place in places if not place.endswith(TO_STORE)]
        await asyncio.gather(*[self._do(place, self._rng.choice(sorted(self._places[place]))) for place in places])

    async def _do(self, place: str, name: str) -> None:
        start = time.monotonic()
        await self._places[place][name]()
        self.done.append(Done(name, place, start, time.monotonic()))

    def _all(self) -> Iterator[tuple[str, dict[str, Fault]]]:
        """Yield what can go wrong, by the place: in one only one thing does at a time."""
        redis, store = self._cluster.redis, self._cluster.database.server
        yield (
            REDIS,
            {
                "Redis flushed": self._flush,
                "Redis killed": lambda: self._kill(redis),
                "Redis restarted": lambda: self._restart(redis, signal.SIGKILL),
                "Redis paused": lambda: self._pause(redis),
                "Redis demoted and promoted": self._demote,
            },
        )
        if store is not None:
            restart, pause = self._of(self._restart_store, store), self._of(self._pause, store)
            yield STORE, {"store restarted": restart, "store paused": pause}
        for host in self._cluster.hosts:
            killed, paused = self._of(self._kill_worker, host), self._of(self._stop, host)
            yield host.name, {"worker killed": killed, "worker paused": paused}
            for name, way in host.ways.items():
                faults = {f"{name} {fault}": self._of(do, way) for fault, do in self._ways().items()}
                yield f"{host.name}{TO}{name}", faults

    def _ways(self) -> dict[str, Callable[[Proxy], Awaitable[None]]]:
        def lasting(make: Callable[[Proxy], AbstractContextManager[None]]) -> Callable[[Proxy], Awaitable[None]]:
            async def fault(way: Proxy) -> None:
                with make(way):
                    await self._while()

            return fault

        return {
            "slow": lasting(lambda way: way.slow(self._rng.uniform(*SLOW_SECONDS))),
            "black hole there": lasting(lambda way: way.black_hole(Way.TO_SERVER)),
            "black hole back": lasting(lambda way: way.black_hole(Way.TO_CLIENT)),
            "black hole both ways": lasting(lambda way: way.black_hole(*Way)),
            "replies cut": lasting(lambda way: way.spoiling(Spoil.CUT, self._rng.uniform(*CHANCES))),
            "replies swallowed": lasting(lambda way: way.spoiling(Spoil.SWALLOWED, self._rng.uniform(*CHANCES))),
            "reset": self._reset,
        }

    @staticmethod
    def _of(fault: Callable[..., Awaitable[None]], *target: Host | Proxy | Server | signal.Signals) -> Fault:
        return lambda: fault(*target)

    async def _while(self) -> None:
        await asyncio.sleep(self._rng.uniform(*FAULT_SECONDS))

    async def _reset(self, way: Proxy) -> None:
        for _ in range(self._rng.randint(1, 5)):
            way.reset()
            await asyncio.sleep(self._rng.uniform(0.05, 1))

    async def _flush(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            with suppress(RedisError, OSError):
                async with Redis(port=self._cluster.redis.port) as client:
                    await client.flushall()
            await asyncio.sleep(self._rng.uniform(0.05, 1))

    async def _demote(self) -> None:
        """Give Redis the older data of a former replica: it is made a replica of that, and a master again."""
        main, replica = self._cluster.redis.port, self._cluster.replica.port
        with suppress(RedisError, OSError, TimeoutError):
            async with Redis(port=main) as old, Redis(port=replica) as new, asyncio.timeout(FAULT_SECONDS[1]):
                await _replicate(new, main)
                await new.slaveof()
                await asyncio.sleep(self._rng.uniform(0.05, 2))
                await _replicate(old, replica)
        with suppress(RedisError, OSError):
            async with Redis(port=main) as old:
                await old.slaveof()

    async def _pause(self, server: Server) -> None:
        with _stopped(server.process.pid):
            await self._while()

    async def _kill(self, server: Server) -> None:
        server.kill()
        await self._while()
        await asyncio.to_thread(server.start)

    async def _restart_store(self, server: Server) -> None:
        """Restart it when it has answered all that it has done.

        MongoDB remembers over a restart what it has done, for the driver that asks again, and SecantusDB does not.
        """
        with ExitStack() as stack:
            for host in self._cluster.hosts:
                stack.enter_context(host.ways["mongo"].black_hole(Way.TO_SERVER))
            await asyncio.sleep(ANSWERED_SECONDS)
            await self._restart(server, signal.SIGTERM)

    async def _restart(self, server: Server, number: signal.Signals) -> None:
        server.process.send_signal(number)
        await asyncio.to_thread(server.process.wait)
        await asyncio.to_thread(server.start)

    async def _kill_worker(self, host: Host) -> None:
        with suppress(ProcessLookupError, IndexError):
            os.kill(self._rng.choice(host.workers()), signal.SIGKILL)
        await self._while()

    async def _stop(self, host: Host) -> None:
        """Pause one of the workers, or all of them."""
        workers = host.workers()
        chosen = self._rng.sample(workers, self._rng.randint(min(1, len(workers)), len(workers)))
        seconds = self._rng.uniform(*(LONG_PAUSE_SECONDS if self._rng.random() < LONG_PAUSES else FAULT_SECONDS))
        with _stopped(*chosen):
            await asyncio.sleep(seconds)


async def _replicate(server: Redis, master: int) -> None:
    """Make it a replica of the Redis on this port; return when it has the data."""
    await server.slaveof("127.0.0.1", master)
    while (await server.info("replication"))["master_link_status"] != "up":
        await asyncio.sleep(0.005)


@contextmanager
def _stopped(*pids: int) -> Iterator[None]:
    """Inside, these processes stand still, those that there are."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
