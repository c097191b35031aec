"""A rate-limited log: clients can cause an event as often as they like, but not as many lines."""

import asyncio

from guidsvc.telemetry.outage import Log

LOG_SECONDS = 10.0
"""Minimum interval between log lines about the same event."""


class RateLimitedLog:
    """The warnings of a logger, with each event at most once in LOG_SECONDS."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._times: dict[str, float] = {}  # of the last line, by event

    def warning(self, event: str, **members: object) -> None:
        """Log a warning, unless the event was logged recently."""
        now = asyncio.get_running_loop().time()
        if now - self._times.get(event, -LOG_SECONDS) >= LOG_SECONDS:
            self._times[event] = now
            self._log.warning(event, **members)
