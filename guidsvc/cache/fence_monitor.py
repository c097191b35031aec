"""The fence, as a process sees it: whether the caches may be used, and until when that is sure.

The store keeps the fence (`guidsvc.store.cache_fence`); every process looks at it again and again, and a look holds
for a lease. So whoever sets it to OFF knows, when a lease has passed, that nobody uses a cache any more.

    ON   the caches are used. A write whose BEGIN fails sets OFF, as does whoever finds that Redis has lost the boot
    OFF  nobody uses them when a fence lease has passed: then writes go to the store, and tell no cache. When Redis has
         been well for the hold-down too, it is given a new boot, one for all who try; that sets ARM
    ARM  every write tells the caches again. When a fence lease has passed all do: that sets ON

A new boot is a new name space: what Redis has kept under another is never reached again.
"""

import asyncio
from typing import NamedTuple

import structlog

from guidsvc.cache.redis_link import RedisLink
from guidsvc.cache.timings import CacheTimings, MonotonicClock
from guidsvc.errors import CacheUnavailable, GuidsvcError
from guidsvc.store.cache_fence import Fence, FenceReading, FenceStore, Mode
from guidsvc.telemetry.metrics import CacheMetrics

HOLD_DOWNS = 8
"""The hold-down grows to so many times its length, while ON never lasts."""

_log = structlog.get_logger(__name__)


class FenceView(NamedTuple):
    """A look at the fence: what it said, when it was asked for and told, and since when this process sees that."""

    sight: FenceReading
    asked: float
    told: float
    since: float

    @property
    def fence(self) -> Fence:
        """What it said."""
        return self.sight.fence


class FenceMonitor:
    """Looks at the fence of `store`, while `keep` goes on, and moves it on when it is time."""

    until = 0.0
    """By our timer: so long may the caches be used. In the past, if they may not."""

    def __init__(
        self,
        store: FenceStore,
        link: RedisLink,
        *,
        timing: CacheTimings,
        timer: MonotonicClock,
        meter: CacheMetrics | None = None,
    ) -> None:
        self._meter = CacheMetrics() if meter is None else meter
        self._store = store
        self._link = link
        self._timing = timing
        self._timer = timer
        self._view: FenceView | None = None
        self._looking: asyncio.Task[FenceView] | None = None
        self._hold_down = timing.hold_down

    @property
    def usable(self) -> str | None:
        """The boot under which the caches may be used now; None if they may not."""
        return self._view.fence.epoch if self._view is not None and self._timer() < self.until else None

    async def fresh(self) -> FenceView:
        """Return a look that is not old, so that most of its lease is left; StoreUnavailable if there is none."""
        view = self._view
        if view is not None and self._timer() - view.asked < self._timing.poll:
            return view
        return await self.look()

    async def look(self) -> FenceView:
        """Look, together with all who want to look now."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def quiet_at(self, view: FenceView) -> float:
        """Return from when on nobody acts upon an older view than this: at once, if there is none."""
        return view.since + self._timing.waited(self._timing.fence_lease) if view.fence.epoch else view.since

    async def off(self, seen: Fence) -> None:
        """Set the fence to OFF, if it still is as it was seen: what Redis holds counts no more."""
        await self._store.swap_fence(seen, _off(seen, seen.gen + 1))
        await self.look()

    async def keep(self) -> None:
        """Look again and again, and move the fence on when it is time, until cancelled."""
        told = False
        while True:
            try:
                await self._move(await self.look())
                told = False
            except CacheUnavailable:
                pass  # the link tells of it
            except GuidsvcError as error:
                if not told:
                    _log.warning("the fence cannot be seen, so no cache is used", error=str(error))
                told = True
            except Exception:  # noqa: BLE001  # it is told; without the fence no cache could be used again
                _log.exception("a fault in moving the fence on, to be tried again")
            await asyncio.sleep(self._timing.poll)

    async def _look(self) -> FenceView:
        asked = self._timer()
        sight = await self._store.fence()
        told, before = self._timer(), self._view
        same = before is not None and before.fence == sight.fence
        view = self._view = FenceView(sight, asked, told, before.since if before is not None and same else told)
        is_on = sight.fence.mode is Mode.ON
        self.until = asked + self._timing.held(self._timing.fence_lease) if is_on else 0.0
        if not same:
            self._changed(before, view)
        return view

    def _looked(self, looking: asyncio.Task[FenceView]) -> None:
        self._looking = None
        if not looking.cancelled():
            looking.exception()  # who waits for it is told; nobody has to

    def _changed(self, before: FenceView | None, view: FenceView) -> None:
        mode = view.fence.mode
        self._meter.fence(mode.value)
        if mode is Mode.ON:
            _log.info("cache is on", gen=view.fence.gen)
        elif mode is Mode.OFF and before is not None and before.fence.mode is not Mode.OFF:
            _log.warning("cache is off: writes go to the store alone", gen=view.fence.gen)
        if mode is Mode.OFF and before is not None and before.fence.mode is Mode.ON:
            lasted = view.told - before.since > HOLD_DOWNS * self._timing.hold_down
            longer = min(2 * self._hold_down, HOLD_DOWNS * self._timing.hold_down)
            self._hold_down = self._timing.hold_down if lasted else longer

    async def _move(self, view: FenceView) -> None:
        """Move the fence on, if it is time."""
        fence, now = view.fence, self._timer()
        up_since = self._link.up_since
        if up_since is None:
            return
        if fence.mode is Mode.OFF:
            well = not fence.epoch or now >= up_since + self._hold_down
            if well and now >= self.quiet_at(view):
                await self._arm(fence)
        elif await self._link.epoch_lost(fence.epoch):
            await self.off(fence)
        elif fence.mode is Mode.ARM and now >= view.since + self._timing.waited(self._timing.fence_lease):
            await self._store.swap_fence(fence, fence._replace(mode=Mode.ON))
            await self.look()

    async def _arm(self, fence: Fence) -> None:
        boot = await self._link.begin_epoch(fence.gen + 1)
        gen = boot.gen
        # A boot of a later generation than ours: the store was brought back to what it was. It has to catch up first.
        new = Fence(Mode.ARM, gen, boot.name) if gen == fence.gen + 1 else _off(fence, gen)
        await self._store.swap_fence(fence, new)
        await self.look()


def _off(before: Fence, gen: int) -> Fence:
    """Return a fence that is OFF, after one that others may still act upon: so its boot is never empty."""
    return Fence(Mode.OFF, gen, before.epoch or "lost")
