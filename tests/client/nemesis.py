"""Clients whose requests and responses are lost at random, and what must hold nevertheless.

A seed is a proxy that cuts connections, before or after what was asked is done, and clients of both kinds behind it:

creations   each creates exactly one record; one that ends in doubt, at most one
updates     a counter has risen once for each update, and for one in doubt at most once
election    no two clients hold the lease at the same time, and the fencing tokens rise
losses      a lease that is deleted, or whose network is cut, is lost where the work is done, before others may have it
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from guidsvc_client import (
    AsyncClient,
    Disconnected,
    Expired,
    LeaseHeld,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    Record,
    TimedOut,
    Unavailable,
    Unreachable,
)
from tests.support.client_in_thread import KINDS, client_of
from tests.support.network_proxy import Damage, Direction, Proxy, proxy

CLIENTS, CREATIONS, UPDATES, TENURES = 3, 2, 3, 2
TTL_SECONDS = 2
LIMIT_SECONDS = 60
"""Within which a lease must be acquired, and a loss be noticed."""
MAX_CHANCE = 0.25
"""The highest chance that a request is lost, and that a response is."""
DOUBTS = (Disconnected, TimedOut, OutcomeUnknown)
FAILURES = (Unreachable, Unavailable, *DOUBTS)


@dataclass
class Findings:
    """What a seed has shown: violations, and how often things happened."""

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def expect(self, condition: bool, violation: str) -> None:  # as an assertion
        """Note a violation unless the condition holds."""
        if not condition:
            self.violations.append(violation)

    def add(self, other: "Findings") -> None:
        """Add the findings of a part."""
        self.violations += other.violations
        self.counts += other.counts


class Tenure(NamedTuple):
    """The time in which a client knew that it held the lease, by the clock of this host."""

    begin: float
    end: float
    token: int


async def run_seed(seed: int, port: int) -> Findings:
    """Run a seed against the service on this port."""
    rng = random.Random(seed)
    found = Findings()
    async with AsyncClient(f"http://127.0.0.1:{port}", timeout=120) as direct:
        async with faulty_clients(rng, port, found) as clients:
            await asyncio.gather(
                creations(seed, clients, direct, found),
                updates(rng, clients, direct, found),
                election(rng, clients, found),
            )
        await losses(rng, port, direct, found)
    found.violations = [f"seed {seed}: {violation}" for violation in found.violations]
    return found


@asynccontextmanager
async def faulty_clients(rng: random.Random, port: int, found: Findings) -> AsyncIterator[Sequence[Any]]:
    """Yield clients, each of either kind, behind a proxy that loses requests and responses."""
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(proxy(port, rng))
        url = f"http://127.0.0.1:{network.port}"
        made = [client_of(rng.choice(KINDS), url) for _ in range(CLIENTS)]
        clients = [await stack.enter_async_context(client) for client in made]
        stack.enter_context(network.dropping(rng.uniform(0, MAX_CHANCE)))
        stack.enter_context(network.damaging(rng.choice(list(Damage)), rng.uniform(0, MAX_CHANCE)))
        yield clients
        found.counts["connections cut"] += network.resets


async def creations(seed: int, clients: Sequence[Any], direct: AsyncClient, found: Findings) -> None:
    """Create records with users that nobody else has, and count them."""

    async def create(client: Any, user: str) -> None:
        is_sure = await succeeds(client.create(user=user, ttl=3600), "creation", found)
        count = await direct.list(user=user).total()
        found.expect(count == 1 if is_sure else count <= 1, f"{user} has {count} records, acknowledged: {is_sure}")

    users = [f"seed {seed} {time.time_ns()} {number}" for number in range(CREATIONS * len(clients))]
    await asyncio.gather(*(create(clients[n % len(clients)], user) for n, user in enumerate(users)))


async def updates(rng: random.Random, clients: Sequence[Any], direct: AsyncClient, found: Findings) -> None:
    """Count up in one record, from all clients at the same time."""
    counter = await direct.create(user="counter", metadata={"n": 0})

    def count_up(record: Record) -> Record:
        return record.replace(metadata={"n": record.metadata["n"] + 1})

    async def count(client: Any) -> Counter[bool]:
        return Counter([await succeeds(client.update(counter.guid, count_up), "update", found) for _ in range(UPDATES)])

    done = sum(await asyncio.gather(*map(count, clients)), Counter[bool]())
    total = (await direct.get(counter.guid)).metadata["n"]
    found.expect(done[True] <= total <= done[True] + done[False], f"{total} after {dict(done)} updates")


async def succeeds(call: Any, what: str, found: Findings) -> bool:
    """Return whether a call succeeds; it may fail only as the network does."""
    try:
        await call
    except FAILURES as error:
        found.counts[f"{what}: {type(error).__name__}"] += 1
        return False
    found.counts[f"{what}: done"] += 1
    return True


async def election(rng: random.Random, clients: Sequence[Any], found: Findings) -> None:
    """Let all clients hold one lease in turn."""
    guid, tenures = UUID(int=rng.getrandbits(128)), list[Tenure]()

    async def hold(client: Any, seconds: float) -> None:
        stamps: list[float] = []
        try:
            async with client.lease(guid, ttl=TTL_SECONDS, wait=LIMIT_SECONDS) as lease:
                token = lease.token
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    await stamped_check(lease, stamps, time.monotonic())
        except (*FAILURES, LeaseLost, LeaseHeld) as error:
            found.counts[f"election: {type(error).__name__}"] += 1
        if stamps:
            tenures.append(Tenure(stamps[0], stamps[-1], token))

    holds = [hold(client, rng.uniform(0.1, 0.8)) for client in clients for _ in range(TENURES)]
    await asyncio.gather(*holds)
    found.counts["tenures"] += len(tenures)
    for earlier, later in pairwise(sorted(tenures)):
        found.expect(earlier.end < later.begin, f"two clients held the lease: {earlier}, {later}")
        found.expect(earlier.token < later.token, f"a fencing token did not rise: {earlier}, {later}")


async def stamped_check(lease: Any, stamps: list[float], now: float) -> None:
    """Note a time, from before the check, at which the lease was held."""
    lease.check()
    stamps.append(now)
    await asyncio.sleep(0.02)


async def losses(rng: random.Random, port: int, direct: AsyncClient, found: Findings) -> None:
    """Take leases away from clients of both kinds."""
    async with proxy(port, rng) as network:
        directions = rng.choice([(Direction.TO_SERVER,), (Direction.TO_CLIENT,), tuple(Direction)])
        for kind in KINDS:
            async with client_of(kind, f"http://127.0.0.1:{network.port}") as client:
                await loss(client, direct, network if rng.random() < 0.7 else None, directions, found)


async def loss(
    client: Any, direct: AsyncClient, network: Proxy | None, directions: Sequence[Direction], found: Findings
) -> None:
    """Cut the network of a lease's holder, or delete the lease if `network` is None. Its holder must notice in time."""
    stamps: list[float] = []
    end = time.monotonic() + LIMIT_SECONDS
    try:
        async with client.lease(user="victim", ttl=TTL_SECONDS) as lease, AsyncExitStack() as stack:
            if network is None:
                await direct.delete(lease.guid)
            else:
                stack.enter_context(network.black_hole(*directions))
            while time.monotonic() < end:
                await stamped_check(lease, stamps, time.time())
        found.violations.append(f"a lease was lost unnoticed (network cut: {network is not None})")
    except LeaseLost:
        found.counts["loss: noticed"] += 1
    except FAILURES as error:  # it was never acquired
        found.counts[f"loss: {type(error).__name__}"] += 1
    if network is not None and stamps:
        expire = await expiry(direct, lease.guid)
        found.expect(stamps[-1] < expire, f"held at {stamps[-1]}, though it expired at {expire}")


async def expiry(direct: AsyncClient, guid: str) -> float:
    """Return when the lease of a GUID expires, or has expired."""
    try:
        return (await direct.get(guid)).expire
    except Expired as expired:
        return expired.expired_at or 0
    except NotFound:  # released when the network was there again
        return float("inf")
