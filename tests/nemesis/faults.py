"""The faults and their times: one to three at a time, on different targets, with calm periods between.

A calm period is long enough for the cache to recover and fill before the next fault.
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
from tests.support.network_proxy import Damage, Direction, Proxy
from tests.support.time_limit import within

FAULT_SECONDS = 0.3, 5.0
CALM_SECONDS = 11.0, 17.0
"""A disabled fence is enabled again after about 5 s."""
MAX_BURST, LULL_SECONDS = 3, 2.0
"""Up to this many rounds of faults follow each other, with at most this pause between them."""
LONG_PAUSE_SECONDS = 12.0, 40.0
"""Longer than all leases, markers and reservations, of which the longest last 30 s."""
LONG_PAUSE_RATE = 0.15
"""The share of worker pauses that are long."""
DELAY_SECONDS = 0.02, 0.4
"""The range of the maximum delay of a slow connection; Redis counts as down after 0.1 s."""
MAX_FAULT_SECONDS = 150.0
"""The longest that a fault may take: a long pause, or the end and the start of a server, on a busy machine."""
REDIS_SECONDS = 5.0
"""The time limit of a command to Redis."""
STORE_REPLY_SECONDS = 0.5
"""The time within which a store has replied to all requests."""
PROXY_TO, REDIS, STORE = " to ", "redis", "store"
PROXY_TO_STORE = f"{PROXY_TO}mongo"
"""Parts of target names. The store and a proxy to it do not fail at the same time: see `_restart_store`."""
BROKEN_REPLY_RATES = 0.02, 1.0
"""The range of the share of broken replies."""

Fault = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class InjectedFault:
    """A fault that was injected, and its target; times are those of the history."""

    name: str
    target: str
    start: float
    end: float

    def __str__(self) -> str:
        """Return the line for a history file."""
        return f"{self.start:.6f} to {self.end:.6f}  nemesis: {self.target}: {self.name}"


class Nemesis:
    """Injects the faults that its random source selects, and records them."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.injected: list[InjectedFault] = []
        self._cluster = cluster
        self._rng = rng
        self._targets = dict(self._all_targets())

    async def run(self, seconds: float) -> None:
        """Inject faults for this time; at the end all are healed."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(remaining, self._rng.uniform(*CALM_SECONDS)))
            for number in range(self._rng.randint(1, MAX_BURST)):
                if time.monotonic() < deadline:
                    await self._inject_some(first=number == 0)
                    await asyncio.sleep(self._rng.uniform(0, LULL_SECONDS))

    async def _inject_some(self, *, first: bool) -> None:
        """Inject one to three faults at a time, on different targets; the first round after a calm includes Redis."""
        redis_targets = [target for target in sorted(self._targets) if target.endswith(REDIS)]
        targets = self._rng.sample(sorted(self._targets), self._rng.choice([1, 1, 2, 3]))
        if first and not set(targets) & set(redis_targets):
            targets[0] = self._rng.choice(redis_targets)
        if STORE in targets:
            targets = [target for target in targets if not target.endswith(PROXY_TO_STORE)]
        await asyncio.gather(
            *[self._inject(target, self._rng.choice(sorted(self._targets[target]))) for target in targets]
        )

    async def _inject(self, target: str, name: str) -> None:
        start = time.monotonic()
        async with within(MAX_FAULT_SECONDS, f"the end of the fault {name!r} of {target}"):
            await self._targets[target][name]()
        self.injected.append(InjectedFault(name, target, start, time.monotonic()))

    def _all_targets(self) -> Iterator[tuple[str, dict[str, Fault]]]:
        """Yield the faults of each target; a target has at most one fault at a time."""
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
            restart, pause = self._bind(self._restart_store, store), self._bind(self._pause, store)
            yield STORE, {"store restarted": restart, "store paused": pause}
        for host in self._cluster.hosts:
            killed, paused = self._bind(self._kill_worker, host), self._bind(self._pause_workers, host)
            yield host.name, {"worker killed": killed, "worker paused": paused}
            for name, proxy in host.proxies.items():
                faults = {f"{name} {fault}": self._bind(do, proxy) for fault, do in self._proxy_faults().items()}
                yield f"{host.name}{PROXY_TO}{name}", faults

    def _proxy_faults(self) -> dict[str, Callable[[Proxy], Awaitable[None]]]:
        def lasting(make: Callable[[Proxy], AbstractContextManager[None]]) -> Callable[[Proxy], Awaitable[None]]:
            async def fault(proxy: Proxy) -> None:
                with make(proxy):
                    await self._wait()

            return fault

        return {
            "slow": lasting(lambda proxy: proxy.slow(self._rng.uniform(*DELAY_SECONDS))),
            "black hole there": lasting(lambda proxy: proxy.black_hole(Direction.TO_SERVER)),
            "black hole back": lasting(lambda proxy: proxy.black_hole(Direction.TO_CLIENT)),
            "black hole both ways": lasting(lambda proxy: proxy.black_hole(*Direction)),
            "replies cut": lasting(lambda proxy: proxy.damaging(Damage.CUT, self._rng.uniform(*BROKEN_REPLY_RATES))),
            "replies swallowed": lasting(
                lambda proxy: proxy.damaging(Damage.SWALLOWED, self._rng.uniform(*BROKEN_REPLY_RATES))
            ),
            "reset": self._reset,
        }

    @staticmethod
    def _bind(fault: Callable[..., Awaitable[None]], *target: Host | Proxy | Server | signal.Signals) -> Fault:
        return lambda: fault(*target)

    async def _wait(self) -> None:
        await asyncio.sleep(self._rng.uniform(*FAULT_SECONDS))

    async def _reset(self, proxy: Proxy) -> None:
        for _ in range(self._rng.randint(1, 5)):
            proxy.reset()
            await asyncio.sleep(self._rng.uniform(0.05, 1))

    async def _flush(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            with suppress(RedisError, OSError):
                async with Redis(port=self._cluster.redis.port, socket_timeout=REDIS_SECONDS) as client:
                    await client.flushall()
            await asyncio.sleep(self._rng.uniform(0.05, 1))

    async def _demote(self) -> None:
        """Give Redis the older data of a former replica: make it a replica of that one, and a master again."""
        main, replica = self._cluster.redis.port, self._cluster.replica.port
        with suppress(RedisError, OSError, TimeoutError):
            async with Redis(port=main) as old, Redis(port=replica) as new, asyncio.timeout(FAULT_SECONDS[1]):
                await _replicate(new, main)
                await new.slaveof()
                await asyncio.sleep(self._rng.uniform(0.05, 2))
                await _replicate(old, replica)
        async with Redis(port=main, socket_timeout=REDIS_SECONDS) as old:
            await _promote(old)

    async def _pause(self, server: Server) -> None:
        with _paused(server.process.pid):
            await self._wait()

    async def _kill(self, server: Server) -> None:
        await asyncio.to_thread(server.kill)
        await self._wait()
        await asyncio.to_thread(server.start)

    async def _restart_store(self, server: Server) -> None:
        """Restart the server once it has replied to everything it has executed.

        MongoDB remembers executed writes over a restart, for a driver that retries; SecantusDB does not.
        """
        with ExitStack() as stack:
            for host in self._cluster.hosts:
                stack.enter_context(host.proxies["mongo"].black_hole(Direction.TO_SERVER))
            await asyncio.sleep(STORE_REPLY_SECONDS)
            await self._restart(server, signal.SIGTERM)

    async def _restart(self, server: Server, number: signal.Signals) -> None:
        await asyncio.to_thread(server.stop, number)
        await asyncio.to_thread(server.start)

    async def _kill_worker(self, host: Host) -> None:
        with suppress(ProcessLookupError, IndexError):
            os.kill(self._rng.choice(host.workers()), signal.SIGKILL)
        await self._wait()

    async def _pause_workers(self, host: Host) -> None:
        """Pause one or more of the workers."""
        workers = host.workers()
        paused = self._rng.sample(workers, self._rng.randint(min(1, len(workers)), len(workers)))
        seconds = self._rng.uniform(*(LONG_PAUSE_SECONDS if self._rng.random() < LONG_PAUSE_RATE else FAULT_SECONDS))
        with _paused(*paused):
            await asyncio.sleep(seconds)


async def _replicate(server: Redis, master: int) -> None:
    """Make the server a replica of the Redis on this port; return when it has the data."""
    await server.slaveof("127.0.0.1", master)
    while (await server.info("replication"))["master_link_status"] != "up":
        await asyncio.sleep(0.005)


async def _promote(server: Redis) -> None:
    """Make the server a master again. It stays a replica if it never responds, and then the fault does not end."""
    while True:
        with suppress(RedisError, OSError):
            await server.slaveof()
            return
        await asyncio.sleep(0.1)


@contextmanager
def _paused(*pids: int) -> Iterator[None]:
    """Pause these processes within the block, if they exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
