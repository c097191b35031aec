"""The health of the parts that every request needs, the store and the cache: known at any time without asking them.

A background task probes each part: regularly, more often while it is not up, and at once when an operation on it has
failed. So `/readyz` never waits for a part that does not answer.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog

from guidsvc.errors import GuidsvcError, StoreReadOnly, StoreReplaced
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import ContinuousClock, continuous_clock
from guidsvc.telemetry.outage import Outage

UP, DOWN, READ_ONLY, REPLACED, OFF = "up", "down", "read-only", "replaced", "off"
"""States of a part."""
PROBE_SECONDS, RETRY_SECONDS = 1.0, 0.25
"""Pause between two probes of a part that is up; and of one that is not."""
MIN_PAUSE_SECONDS = 0.05
"""Least pause between two probes, however many operations fail."""
TIMEOUT_SECONDS = 2.0
"""Timeout of a probe. A part that does not answer in time is down."""
TOLERABLE_SKEW_SECONDS = 0.5
"""If the clock of this host differs from that of the store by more, the service is degraded."""
DOUBT_SECONDS = 0.5
"""A part is down at once if an operation fails while a probe has had no answer for this long."""

_log = structlog.get_logger(__name__)

Probe = Callable[[], Awaitable[None]]
"""Returns if a part answers; raises Unavailable if it does not."""


class PartHealth:
    """The last known state of a part.

    `outages` are the log lines of its states; those of other states have none. One of being down ends when the part
    answers; one of any other state ends only when the part is up. `name` is the name of the part in them.
    """

    def __init__(
        self,
        outages: dict[str, Outage] | None = None,
        *,
        name: str = "the part",
        timer: ContinuousClock = continuous_clock,
    ) -> None:
        self.state = UP
        self._name = name
        self._outages = outages or {}
        self._timer = timer
        self._checked_at = timer()
        self._failed = asyncio.Event()
        self._probe_begun: float | None = None

    @property
    def age_seconds(self) -> float:
        """The time since the last completed probe."""
        return self._timer() - self._checked_at

    def note_failure(self) -> None:
        """Note that an operation has failed: the part is probed at once, or down if a probe has no answer either."""
        self._failed.set()
        if self._probe_begun is not None and self._timer() - self._probe_begun > DOUBT_SECONDS:
            self._set(DOWN, f"{self._name}: operations fail, and a check has no answer for {DOUBT_SECONDS:g} s")

    async def check(self, probe: Probe) -> None:
        """Probe the part, and set its state."""
        error: Exception | None = None
        self._probe_begun = self._timer()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await probe()
        except (GuidsvcError, TimeoutError) as failure:
            error = failure
        finally:
            self._probe_begun = None
        self._checked_at = self._timer()
        self._set(_state_of(error), str(error) or f"{self._name}: a check has no answer for {TIMEOUT_SECONDS:g} s")

    async def keep(self, probe: Probe) -> None:
        """Keep the state current, until cancelled."""
        while True:
            await asyncio.sleep(MIN_PAUSE_SECONDS)
            pause = PROBE_SECONDS if self.state == UP else RETRY_SECONDS
            try:
                async with asyncio.timeout(pause - MIN_PAUSE_SECONDS):
                    await self._failed.wait()
            except TimeoutError:
                pass  # the regular probe
            self._failed.clear()
            await self.check(probe)

    def _set(self, state: str, reason: str) -> None:
        self.state = state
        for other, outage in self._outages.items():
            if state == UP or (other == DOWN and state != DOWN):  # a part that is down accepts no writes either
                outage.end()
        if state in self._outages:
            self._outages[state].begin(error=reason)


class Health:
    """The health of the store and the cache.

    The connection to Redis and the files of the store log their outages themselves. `clock_skew_seconds` returns by how
    much the clock of this host is ahead of that of the store; None if that is not known. `damage` returns what is wrong
    with the stored data; None if no damage was found. `has_cache` says whether records are cached. `store_name` is the
    product, as the log names it.
    """

    def __init__(
        self,
        clock_skew_seconds: Callable[[], float | None] = lambda: None,
        damage: Callable[[], str | None] = lambda: None,
        *,
        has_cache: bool = True,
        store_name: str = "the store",
    ) -> None:
        self._clock_skew_seconds = clock_skew_seconds
        self._damage = damage
        self._has_cache = has_cache
        self.store = PartHealth(
            {
                DOWN: Outage(_log, "store unavailable", "store available again"),
                READ_ONLY: Outage(_log, "store rejects writes", "store accepts writes again"),
            },
            name=store_name,
        )
        self.cache = PartHealth()

    @asynccontextmanager
    async def kept_current(self, store: Probe, cache: Probe) -> AsyncIterator[None]:
        """Probe both parts, and again while the block runs."""
        await asyncio.gather(self.store.check(store), self.cache.check(cache))
        async with (
            running_in_background(partial(self.store.keep, store)),
            running_in_background(partial(self.cache.keep, cache)),
        ):
            yield

    def report(self) -> dict[str, str | int]:
        """Return the state of each part, and the age of the older one in milliseconds.

        `clock` is there only if it is wrong, and `damage` only if some was found.
        """
        age_seconds = max(self.store.age_seconds, self.cache.age_seconds)
        skew = _describe_skew(self._clock_skew_seconds() or 0.0)
        faults = {"clock": skew, "damage": self._damage()}
        states = {"store": self.store.state, "cache": self.cache.state if self._has_cache else OFF}
        return states | {name: fault for name, fault in faults.items() if fault} | {"age_ms": round(1000 * age_seconds)}


def _describe_skew(seconds: float) -> str | None:
    """Return the error of a clock, such as `1.2 s ahead`; None if it is tolerable."""
    if abs(seconds) <= TOLERABLE_SKEW_SECONDS:
        return None
    return f"{abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"


def _state_of(error: Exception | None) -> str:
    match error:
        case None:
            return UP
        case StoreReplaced():
            return REPLACED
        case StoreReadOnly():
            return READ_ONLY
        case _:
            return DOWN
