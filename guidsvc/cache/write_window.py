"""Windows for writes: while one is open, no cache can be filled with the old value of its key.

With the fence ON or ARM, BEGIN removes the key from Redis, leaves a marker there, and returns how long other processes
may still hold the key in L1; the write waits that long. With the fence OFF, the write waits for a fence lease. END
removes the marker.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import floor
from typing import NamedTuple

from guidsvc.cache.fence_monitor import FenceMonitor, FenceView
from guidsvc.cache.redis.link import RedisLink
from guidsvc.cache.redis.lua_scripts import BEGIN, END
from guidsvc.cache.timings import CacheTimings, milliseconds
from guidsvc.errors import CacheUnavailable, Unavailable
from guidsvc.runtime.cancel_scope import checkpoint
from guidsvc.runtime.clock import ContinuousClock
from guidsvc.store.cache_fence import Mode

WINDOW_SECONDS = 8.0
"""A write that gets no window within this time is rejected."""
UNREMOVED, WRONG_CLOCK = "a write could not remove its record from Redis", "the clock of Redis is wrong"
"""Reasons to disable the cache."""


class WriteWindow(NamedTuple):
    """Permission to write until `until`, by the local timer: no cache can be filled with the old value before that.

    `not_after` is the same time by the store's clock. `marker` is None if the fence is OFF.
    """

    guid: str
    until: float
    not_after: int
    epoch: str
    marker: str | None


class WriteWindows:
    """Opens and closes windows. `spawn` runs work beside the requests."""

    def __init__(
        self,
        link: RedisLink,
        monitor: FenceMonitor,
        *,
        timing: CacheTimings,
        timer: ContinuousClock,
        spawn: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._link = link
        self._monitor = monitor
        self._timing = timing
        self._timer = timer
        self._spawn = spawn

    async def open(self, guid: str) -> WriteWindow:
        """Return a window for a write; raise the error of its request if that has ended meanwhile."""
        deadline = self._timer() + WINDOW_SECONDS
        while self._timer() < deadline:
            view = await self._monitor.fresh()
            is_off = view.fence.mode is Mode.OFF
            window = await (self._open_without_redis(guid, view) if is_off else self._open_with_redis(guid, view))
            if window is not None:
                try:
                    checkpoint()  # it may have waited for long, and nothing has been sent to the store
                except Unavailable:
                    self.close(window)
                    raise
                return window
        raise CacheUnavailable(f"no cache could be invalidated within {WINDOW_SECONDS} s")

    async def _open_without_redis(self, guid: str, view: FenceView) -> WriteWindow | None:
        """Return a window that does not involve Redis, or wait until one is possible and return None."""
        wait = self._monitor.quiet_at(view) - self._timer()
        if wait <= 0:
            return self._window(
                guid, view, view.requested_at + self._timing.holder_seconds(self._timing.fence_lease), None
            )
        await asyncio.sleep(wait)
        return None

    async def _open_with_redis(self, guid: str, view: FenceView) -> WriteWindow | None:
        """Remove the key from Redis, and wait until no process holds it in L1; set the fence to OFF if that fails."""
        marker, sent_at = self._link.random_name(), self._timer()
        lease = await self._begin(guid, marker, view)
        if lease is None or lease > milliseconds(self._timing.waiter_seconds(self._timing.lease)):
            # No lease is as long: the clock of Redis was set back, or the reply is damaged.
            reason = UNREMOVED if lease is None else WRONG_CLOCK
            await self._monitor.off(view.fence, reason)
            return None
        if lease > 0:
            await asyncio.sleep(self._timing.waiter_seconds(lease / 1000))
        timing = self._timing
        # After this reading, the fence needs at least two fence leases to go OFF, ARM and ON in another epoch.
        until = min(
            sent_at + timing.holder_seconds(timing.marker),
            view.requested_at + 2 * timing.holder_seconds(timing.fence_lease),
        )
        return self._window(guid, view, until, marker)

    async def _begin(self, guid: str, marker: str, view: FenceView) -> int | None:
        """Run BEGIN, waiting for Redis if needed; return how many ms other processes hold the key, None on failure."""
        timing = self._timing
        arguments = (marker, milliseconds(timing.marker), self._link.me, milliseconds(timing.cool))
        for _ in range(2):
            with suppress(CacheUnavailable):
                if self._link.up_since is None:
                    await self._link.wait_up(timing.begin)
                lease: int | None = (await self._link.call(BEGIN, guid, *arguments, epoch=view.fence.epoch)).value
                return lease
        return None

    def _window(self, guid: str, view: FenceView, until: float, marker: str | None) -> WriteWindow:
        remaining_seconds = self._timing.holder_seconds(until - view.received_at) - self._timing.skew
        return WriteWindow(guid, until, view.reading.now + floor(remaining_seconds * 1000), view.fence.epoch, marker)

    def close(self, window: WriteWindow) -> None:
        """Drop the marker in the background. Until then it only prevents fills."""
        if window.marker is not None:
            self._spawn(self._end(window.guid, window.marker, window.epoch))

    async def _end(self, guid: str, marker: str, epoch: str) -> None:
        """Drop a marker. If it has ended before, the clock of Redis was set forward: drop what was filled in since."""
        if (await self._link.call(END, guid, marker, epoch=epoch)).value == 0:
            await self.invalidate(guid)

    async def invalidate(self, guid: str) -> None:
        """Remove a key from Redis, unless the fence is OFF."""
        view = await self._monitor.fresh()
        if view.fence.mode is not Mode.OFF:
            marker = self._link.random_name()
            await self._begin(guid, marker, view)
            await self._link.call(END, guid, marker, epoch=view.fence.epoch)
