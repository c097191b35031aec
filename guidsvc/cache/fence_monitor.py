"""The fence as this process sees it: whether caches may be used, and until when.

The store holds the fence (`guidsvc.store.cache_fence`). Every process polls it, and each reading is valid for one fence
lease. So one fence lease after the fence was set to OFF, no process uses a cache any more.

    ON   Caches are used. A write whose BEGIN fails sets OFF, as does a process that finds the Redis epoch lost
    OFF  After a fence lease no process uses a cache; then writes go to the store only. Once Redis has also been
         healthy for the hold-down, it gets a new epoch (one, however many processes try), which sets ARM
    ARM  Every write invalidates the caches again. After a fence lease all processes do; that sets ON

A new epoch is a new name space: entries of an earlier epoch can never be reached again.
"""

import asyncio
from typing import NamedTuple

import structlog

from guidsvc.cache.redis.link import RedisLink
from guidsvc.cache.timings import CacheTimings
from guidsvc.errors import CacheUnavailable, GuidsvcError
from guidsvc.runtime.clock import ContinuousClock
from guidsvc.store.cache_fence import Fence, FenceReading, FenceStore, Mode
from guidsvc.telemetry.metrics import CacheMetrics
from guidsvc.telemetry.outage import Outage

HOLD_DOWNS = 8
"""The hold-down grows up to this multiple of its initial length while ON does not last."""

_log = structlog.get_logger(__name__)


class FenceView(NamedTuple):
    """A reading of the fence. Local times: of the request, of the reply, and since when the fence has been the same."""

    reading: FenceReading
    requested_at: float
    received_at: float
    since: float

    @property
    def fence(self) -> Fence:
        """The fence that was read."""
        return self.reading.fence


class FenceMonitor:
    """Polls the stored fence while `keep` runs, and moves it to its next mode when due."""

    until = 0.0
    """When the permission to use the caches ends, by the local timer; in the past if they may not be used."""

    def __init__(
        self,
        fence: FenceStore,
        link: RedisLink,
        *,
        timing: CacheTimings,
        timer: ContinuousClock,
        meter: CacheMetrics | None = None,
    ) -> None:
        self._meter = CacheMetrics() if meter is None else meter
        self._fence = fence
        self._link = link
        self._timing = timing
        self._timer = timer
        self._view: FenceView | None = None
        self._refresh_task: asyncio.Task[FenceView] | None = None
        self._hold_down = timing.hold_down
        self._refused: tuple[Fence, str] | None = None
        """The last fence that this process has set to OFF, and why."""

    @property
    def usable(self) -> str | None:
        """The epoch in which the caches may be used now; None if they may not."""
        return self._view.fence.epoch if self._view is not None and self._timer() < self.until else None

    async def fresh(self) -> FenceView:
        """Return a reading younger than the poll interval, so most of its lease is left; may raise Unavailable."""
        view = self._view
        if view is not None and self._timer() - view.requested_at < self._timing.poll:
            return view
        return await self.refresh()

    async def refresh(self) -> FenceView:
        """Read the fence; concurrent callers share one request."""
        if self._refresh_task is None:
            self._refresh_task = asyncio.create_task(self._refresh())
            self._refresh_task.add_done_callback(self._refresh_done)
        return await asyncio.shield(self._refresh_task)

    def quiet_at(self, view: FenceView) -> float:
        """Return when no process can act on an older view any more; an empty epoch means that none has one."""
        return view.since + self._timing.waiter_seconds(self._timing.fence_lease) if view.fence.epoch else view.since

    async def off(self, expected: Fence, reason: str) -> None:
        """Set the fence to OFF, unless it has changed since `expected`, because the contents of Redis are invalid.

        The log has the reason.
        """
        self._refused = (expected, reason)
        await self._fence.swap(expected, _off(expected, expected.gen + 1))
        await self.refresh()

    async def keep(self) -> None:
        """Poll the fence, and move it to its next mode when due, until cancelled."""
        outage = Outage(_log, "cache fence unreadable, cache disabled", "cache fence readable again", timer=self._timer)
        while True:
            try:
                await self._move(await self.refresh())
                outage.end()
            except CacheUnavailable:
                pass  # the link logs it
            except GuidsvcError as error:
                outage.begin(error=str(error))
            except Exception:  # noqa: BLE001  # logged; without this task no cache would be used again
                _log.exception("moving the cache fence failed, retrying")
            await asyncio.sleep(self._timing.poll)

    async def _refresh(self) -> FenceView:
        requested_at = self._timer()
        reading = await self._fence.read()
        received_at, before = self._timer(), self._view
        is_unchanged = before is not None and before.fence == reading.fence
        since = before.since if before is not None and is_unchanged else received_at
        view = self._view = FenceView(reading, requested_at, received_at, since)
        is_on = reading.fence.mode is Mode.ON
        self.until = requested_at + self._timing.holder_seconds(self._timing.fence_lease) if is_on else 0.0
        if not is_unchanged:
            self._changed(before, view)
        return view

    def _refresh_done(self, task: asyncio.Task[FenceView]) -> None:
        self._refresh_task = None
        if not task.cancelled():
            task.exception()  # mark it as retrieved: callers of refresh() get it, and there may be none

    def _changed(self, before: FenceView | None, view: FenceView) -> None:
        mode = view.fence.mode
        self._meter.fence(mode.value)
        if mode is Mode.ON:
            _log.info("cache enabled", gen=view.fence.gen)
        elif mode is Mode.OFF and before is not None and before.fence.mode is not Mode.OFF:
            refused, reason = self._refused or (None, "")
            known = reason if before.fence == refused else "another process has disabled it"
            _log.warning("cache disabled, reading and writing the store only", gen=view.fence.gen, reason=known)
        if mode is Mode.OFF and before is not None and before.fence.mode is Mode.ON:
            was_stable = view.received_at - before.since > HOLD_DOWNS * self._timing.hold_down
            doubled = min(2 * self._hold_down, HOLD_DOWNS * self._timing.hold_down)
            self._hold_down = self._timing.hold_down if was_stable else doubled

    async def _move(self, view: FenceView) -> None:
        """Move the fence to its next mode, if due."""
        fence, now = view.fence, self._timer()
        up_since = self._link.up_since
        if up_since is None:
            return
        if fence.mode is Mode.OFF:
            is_healthy = not fence.epoch or now >= up_since + self._hold_down
            if is_healthy and now >= self.quiet_at(view):
                await self._arm(fence)
        elif await self._link.epoch_lost(fence.epoch):
            await self.off(fence, "Redis has lost its contents")
        elif fence.mode is Mode.ARM and now >= view.since + self._timing.waiter_seconds(self._timing.fence_lease):
            await self._fence.swap(fence, fence._replace(mode=Mode.ON))
            await self.refresh()

    async def _arm(self, fence: Fence) -> None:
        epoch = await self._link.begin_epoch(fence.gen + 1)
        gen = epoch.gen
        # A later generation means that the store was restored to an older state: its generation must catch up first.
        new = Fence(Mode.ARM, gen, epoch.name) if gen == fence.gen + 1 else _off(fence, gen)
        await self._fence.swap(fence, new)
        await self.refresh()


def _off(before: Fence, gen: int) -> Fence:
    """Return an OFF fence; its epoch is never empty, because others may still act on the fence before it."""
    return Fence(Mode.OFF, gen, before.epoch or "lost")
