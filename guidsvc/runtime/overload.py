"""Signs of overload: the lag of the event loop, measured by a periodic scan, and the warnings in the log."""

import asyncio
from collections.abc import Callable

import structlog

LATE = 0.2
"""The event loop counts as lagging after two scans in a row that were late by this fraction of the queue time."""
SCANS = 20
"""Scans for timed-out requests per queue time."""
WARNING_SECONDS = 10.0
"""Minimum interval between overload warnings in the log, in seconds."""

_log = structlog.get_logger(__name__)


class ScanTimer:
    """The timer of the scans for timed-out requests. How late a scan starts shows the lag of the event loop."""

    def __init__(self, queue_seconds: float, scan: Callable[[], None]) -> None:
        self._interval_seconds = queue_seconds / SCANS
        self._lag_limit_seconds = LATE * queue_seconds
        self._scan = scan
        self._due = 0.0  # time of the next scan
        self._late_scans = 0  # in a row; a single one may be a pause of the machine, not load
        self.is_scheduled = False
        """Whether a scan is scheduled. An attribute, because it is read for each request, as the next."""
        self.is_lagging = False
        """Whether the event loop lags."""

    @property
    def is_late(self) -> bool:
        """Whether the last scan was late. Then another scan must follow, to notice when the lag ends."""
        return self._late_scans > 0

    def schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule the next scan, unless it is scheduled already."""
        if not self.is_scheduled:
            self._due = loop.time() + self._interval_seconds
            self.is_scheduled = True
            loop.call_at(self._due, self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_scheduled = False
        self._late_scans = self._late_scans + 1 if loop.time() - self._due > self._lag_limit_seconds else 0
        self.is_lagging = self._late_scans > 1
        self._scan()


class OverloadWarnings:
    """Warnings about rejected requests in the log, at most one per WARNING_SECONDS."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._warned_at = 0.0
        self._warned_rejections = 0

    def warn(self, now: float, rejections: int) -> None:
        """Report the rejections since the last warning, unless that was recent. `rejections` counts all so far."""
        if now - self._warned_at >= WARNING_SECONDS or not self._warned_at:
            _log.warning(
                "overloaded, rejecting requests", rejected=rejections - self._warned_rejections, slots=self._slots
            )
            self._warned_at, self._warned_rejections = now, rejections
