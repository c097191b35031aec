"""Injects one to three faults at a time, as the seed decides, and heals them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.simulation.network import Network
from tests.simulation.redis import SimulatedRedis
from tests.simulation.store import SimulatedStore
from tests.simulation.world import Actor, World

WORLDS = ("slow_stores",), ("flush", "stragglers"), ("slow_answers", "cut_redis"), ("cut_redis", "stragglers")
"""Combinations of faults that are harmful together, but not alone."""
TOGETHER = 0.3
"""The share of seeds that inject only such a combination."""


class Victim(Protocol):
    """A process that faults are injected into."""

    actor: Actor
    to_redis: Network
    to_store: Network

    def kill(self) -> None:
        """Kill the process."""

    def revive(self) -> None:
        """Restart the process."""


async def inject_faults(
    world: World,
    redis: SimulatedRedis,
    store: SimulatedStore,
    victims: Sequence[Victim],
    *,
    until: float,
    named: Sequence[str] = (),
) -> None:
    """Inject faults until this time, with calm periods, and heal them: the named kinds, or kinds chosen by the seed."""
    faults = Faults(world, redis, store, victims, named)
    random = world.random
    while world.now < until:
        await asyncio.sleep(random.choice((0.1, 0.5, 1.0, 2.0, 6.0)) * random.random())
        for _ in range(random.choice((1, 1, 2, 3))):
            name, fault = random.choice(faults.all)
            world.note("fault:", name)
            fault()
    await asyncio.sleep(20)  # all faults end, pauses last of all


class Faults:
    """The kinds of faults, and their ends."""

    def __init__(
        self,
        world: World,
        redis: SimulatedRedis,
        store: SimulatedStore,
        victims: Sequence[Victim],
        named: Sequence[str],
    ) -> None:
        self._world, self._redis, self._store, self._victims = world, redis, store, victims
        self._random = world.random
        everything: list[Callable[[], None]] = [
            self._pause, self._long_pause, self._die, self._flush, self._save_and_restart, self._evict,
            self._cut_redis, self._reset, self._redis_dead, self._slow_redis, self._cut_store, self._slow_store,
            self._slow_answers, self._slow_stores, self._stragglers, self._stall,
            self._switch_over,
        ]  # fmt: skip
        # Few kinds per seed: some faults harm only in combination, and all kinds would hide each other's effects.
        kinds = self._random.sample(everything, self._random.choice((1, 2, 3, 5, 8)))
        if self._random.random() < TOGETHER:
            named = named or self._random.choice(WORLDS)
        if named:
            kinds = [getattr(self, f"_{name}") for name in named]
        self.all = [(fault.__name__.strip("_"), fault) for fault in kinds]

    @property
    def _victim(self) -> Victim:
        return self._random.choice(self._victims)

    def _for_a_while(self, max_seconds: float, end: Callable[[], None]) -> None:
        self._world.outside(max_seconds * self._random.random() ** 2, end)

    def _pause(self) -> None:
        self._victim.actor.pause(3.0 * self._random.random() ** 2)

    def _long_pause(self) -> None:
        self._victim.actor.pause(self._random.uniform(8, 15))

    def _die(self) -> None:
        victim = self._victim
        if not victim.actor.dead:
            victim.kill()
            self._for_a_while(3, victim.revive)

    def _flush(self) -> None:
        self._redis.flush()

    def _evict(self) -> None:
        self._redis.evict()

    def _save_and_restart(self) -> None:
        self._redis.save()
        self._for_a_while(3, lambda: self._redis.restart(restored=self._random.random() < 0.5))

    def _switch_over(self) -> None:
        """Become a replica with older data, for less or more time than a check takes; then a master again."""
        self._redis.save()
        replica_seconds = self._random.choice((0.0, 0.0, 0.02, 3.0)) * self._random.random()

        def switch() -> None:
            self._redis.demote()
            self._world.outside(replica_seconds, self._redis.promote)

        self._for_a_while(3, switch)

    def _reset(self) -> None:
        for connection in list(self._redis.connections):
            if self._random.random() < 0.5:
                connection.reset()

    def _cut_redis(self) -> None:
        self._cut(self._victim.to_redis)

    def _redis_dead(self) -> None:
        for victim in self._victims:
            self._cut(victim.to_redis)

    def _cut_store(self) -> None:
        self._cut(self._victim.to_store)

    def _cut(self, network: Network) -> None:
        direction = self._random.choice(("cut_there", "cut_back", "both"))
        for name in ("cut_there", "cut_back") if direction == "both" else (direction,):
            setattr(network, name, True)
            self._for_a_while(8, lambda name=name: setattr(network, name, False))  # type: ignore[misc]

    def _slow_redis(self) -> None:
        self._slow(self._victim.to_redis, self._random.choice((0.04, 0.08, 0.2, 5.0)))

    def _slow_store(self) -> None:
        self._slow(self._victim.to_store, self._random.choice((0.5, 1.5, 6.0, 15.0)))

    def _slow_stores(self) -> None:
        for victim in self._victims:
            self._slow(victim.to_store, 0.8)

    def _stragglers(self) -> None:
        for victim in self._victims:
            victim.to_store.straggling = 0.4
            self._for_a_while(15, lambda network=victim.to_store: setattr(network, "straggling", 0.0))  # type: ignore[misc]

    def _slow_answers(self) -> None:
        victim = self._victim
        victim.to_redis.slow_back, victim.to_store.slow_back = self._random.choice(
            ((0.09, 0.0), (0.0, 1.9), (0.08, 1.5))
        )
        self._for_a_while(8, lambda: setattr(victim.to_redis, "slow_back", 0.0))
        self._for_a_while(8, lambda: setattr(victim.to_store, "slow_back", 0.0))

    def _slow(self, network: Network, seconds: float) -> None:
        network.slow = seconds
        self._for_a_while(6, lambda: setattr(network, "slow", 0.0))

    def _stall(self) -> None:
        self._store.stall = self._random.choice((0.5, 15.0, 15.0))
        self._for_a_while(10, lambda: setattr(self._store, "stall", 0.0))
