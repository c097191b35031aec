"""A rate limit for log lines that clients can cause: lines beyond it are counted, and the counts are reported.

Each process has its own. It knows neither the log that a line is for, nor how a count is written.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Lock
from time import monotonic

from guidsvc.runtime.background import running_in_background

WINDOW_SECONDS = 60.0
"""The limits hold for a window of this length; at its end the counts are reported."""
PER_SOURCE, TOTAL = 60, 600
"""How many lines of one source are written in a window, and how many of all sources."""
SOURCE_CHARACTERS = 100
"""The length to which the name of a source is cut."""
LOOK_SECONDS = 1.0

Report = Callable[[str | None, int], None]
"""Writes how many lines of a source were left out; of None, for all sources that have no line in the window."""


class LineLimit:
    """The limit of one log. Threads may share it."""

    def __init__(
        self,
        report: Report,
        *,
        per_source: int = PER_SOURCE,
        total: int = TOTAL,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._report = report
        self._per_source = per_source
        self._total = total
        self._timer = timer
        self._lock = Lock()
        self._begun = timer()
        self._admitted = 0
        self._lines: dict[str, int] = {}  # admitted, by source: no more sources than `total`
        self._left_out: dict[str | None, int] = {}

    def admits(self, source: str) -> bool:
        """Return whether to write one more line of this source; if not, the line is counted."""
        self.end_window_if_due()
        source = source[:SOURCE_CHARACTERS]
        with self._lock:
            lines = self._lines.get(source, 0)
            if lines < self._per_source and self._admitted < self._total:
                self._lines[source] = lines + 1
                self._admitted += 1
                return True
            counted = source if lines else None
            self._left_out[counted] = self._left_out.get(counted, 0) + 1
            return False

    def end_window_if_due(self) -> None:
        """End the window if its time is over."""
        if self._timer() - self._begun >= WINDOW_SECONDS:
            self.end_window()

    def end_window(self) -> None:
        """Begin a new window, and report the counts of the last one."""
        with self._lock:
            left_out, self._left_out = self._left_out, {}
            self._lines, self._admitted = {}, 0
            self._begun = self._timer()
        for source, count in left_out.items():  # outside of the lock: a report may be a log line itself
            self._report(source, count)


@asynccontextmanager
async def reporting(*limits: LineLimit) -> AsyncIterator[None]:
    """Report the counts of these limits when their windows end, inside, and at the end."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for limit in limits:
                limit.end_window_if_due()

    try:
        async with running_in_background(keep):
            yield
    finally:
        for limit in limits:
            limit.end_window()
