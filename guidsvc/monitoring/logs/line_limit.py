"""A rate limit for log lines that clients can cause: lines beyond it are counted, and the counts are reported.

Each process has its own. This module knows neither the log of a line nor the form of a report.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Lock
from time import monotonic

from guidsvc.runtime.background import running_in_background

WINDOW_SECONDS = 60.0
"""Length of the window of a limit, in seconds; the counts are reported at its end."""
PER_SOURCE, TOTAL = 60, 600
"""Maximum number of lines in a window: of one source, and of all sources."""
SOURCE_CHARACTERS = 100
"""Maximum length of a source name, in characters; a longer one is cut."""
LOOK_SECONDS = 1.0

Report = Callable[[str | None, int], None]
"""Writes the number of lines left out of a source, or, for None, of all sources without a line in the window."""


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
        for source, count in left_out.items():  # outside the lock: a report may itself be a log line
            self._report(source, count)


@asynccontextmanager
async def reporting(*limits: LineLimit) -> AsyncIterator[None]:
    """Report the counts of these limits when their windows end, and on exit."""

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
