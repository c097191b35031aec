"""Process monitoring: metrics, event-loop lag, and the exchange of metrics between workers.

With several processes, each writes its metrics to a shared folder twice a second, and any of them renders all.
"""

import asyncio
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from guidsvc.errors import MetricsUnavailable
from guidsvc.runtime.background import in_thread, spawn_detached
from guidsvc.telemetry.metrics import Metrics
from guidsvc.telemetry.outage import Outage

if TYPE_CHECKING:
    from guidsvc.monitoring.prometheus import MetricFiles, MultiProcessCollector

SAMPLE_SECONDS = 0.25
"""Interval between event-loop lag samples, in seconds."""
SAMPLES = 2
"""Number of samples after which metrics are published."""

_FILES_OF_LIVE_PROCESSES = "gauge_livesum_*.db"
"""Each process that serves has one such file; the supervisor removes that of a process that has ended."""
MAX_NAMED_FILES = 10
"""Maximum number of unreadable files that a log line names."""

_log = structlog.get_logger(__name__)


class ProcessMonitor:
    """The monitor of a process; `folder` is shared with other processes, if any; `about` describes the process."""

    def __init__(
        self,
        meters: Metrics | None = None,
        *,
        folder: Path | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.meters = Metrics() if meters is None else meters
        self.processes = 1 if folder is None else None
        """The number of processes that serve, as of the last publication; None while it is unknown."""
        self._folder = folder
        self._about = about or {}
        self._files: MetricFiles | None = None
        self._outage = Outage(_log, "metrics cannot be written", "metrics can be written again")
        self._renderings: dict[str, asyncio.Task[tuple[bytes, str]]] = {}  # by media type
        self._is_rendering = asyncio.Lock()
        self._left_out: set[str] = set()  # files that the last rendering could not read

    async def run(self) -> None:
        """Sample the event-loop lag and publish metrics, until cancelled."""
        samples = 0
        if self._folder is not None:
            await _load()
            self.publish()
        while True:
            begun = monotonic()
            await asyncio.sleep(SAMPLE_SECONDS)
            self.meters.lag.observe(max(0.0, monotonic() - begun - SAMPLE_SECONDS))
            samples += 1
            if samples % SAMPLES == 0:
                self.publish()

    def publish(self) -> None:
        """Write the metrics for the other processes, if any."""
        if self._folder is None:
            return
        try:
            self._write(self._folder)
            self.processes = sum(1 for _ in self._folder.glob(_FILES_OF_LIVE_PROCESSES))
        except OSError as error:
            self.processes = None
            self._outage.begin(error=str(error))
        else:
            self._outage.end()

    def close(self) -> None:
        """Cancel renderings, and publish the final metrics, which remain after this process has ended."""
        for rendering in self._renderings.values():
            rendering.cancel()
        self.publish()
        if self._files is not None:
            self._files.close()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all processes, and their media type; raise MetricsUnavailable if that fails.

        Concurrent requests for one media type share one rendering.
        """
        await _load()
        from guidsvc.monitoring import prometheus

        media_type = prometheus.media_type_of(accept)
        rendering = self._renderings.get(media_type)
        if rendering is None:
            rendering = self._renderings[media_type] = spawn_detached(self._render_alone(accept))
            rendering.add_done_callback(lambda done: self._rendered(media_type, done))
        return await asyncio.shield(rendering)

    def _rendered(self, media_type: str, rendering: "asyncio.Task[tuple[bytes, str]]") -> None:
        del self._renderings[media_type]
        if not rendering.cancelled():
            rendering.exception()  # mark it as retrieved: all waiting requests may have been cancelled

    async def _render_alone(self, accept: str) -> tuple[bytes, str]:
        """Render one media type at a time: each rendering takes a thread, and time from the event loop."""
        async with self._is_rendering:
            return await self._render_all(accept)

    async def _render_all(self, accept: str) -> tuple[bytes, str]:
        from guidsvc.monitoring import prometheus

        if self._folder is None:
            collector = prometheus.SingleProcessCollector(self.meters, self._about)
            return await in_thread(prometheus.render, collector, accept)
        try:
            rendered, has_new_files = await self._render(self._collector(self._folder), accept)
            return (await self._render(self._collector(self._folder), accept))[0] if has_new_files else rendered
        except (OSError, ValueError) as error:
            raise MetricsUnavailable(f"metrics cannot be read: {error}") from error

    def _collector(self, folder: Path) -> "MultiProcessCollector":
        from guidsvc.monitoring import prometheus

        return prometheus.MultiProcessCollector(folder, prometheus.exemplars_of(self.meters, self._about))

    async def _render(self, collector: "MultiProcessCollector", accept: str) -> tuple[tuple[bytes, str], bool]:
        """Render the files of all processes, and record those left out; return also whether some are new."""
        from guidsvc.monitoring import prometheus

        self.publish()
        rendered = await in_thread(prometheus.render, collector, accept)
        new_files = set(collector.left_out) - self._left_out
        self._left_out = set(collector.left_out)
        if new_files:
            self.meters.metric_files_left_out += len(new_files)
            _log.warning("metric files unreadable, leaving them out", files=sorted(new_files)[:MAX_NAMED_FILES])
        return rendered, bool(new_files)

    def _write(self, folder: Path) -> None:
        if self._files is None:
            from guidsvc.monitoring.prometheus import MetricFiles

            self._files = MetricFiles(folder)
        self._files.write(self.meters, self._about)


async def _load() -> None:
    """Import the exposition module in a thread, because the import would block the event loop."""
    await in_thread(import_module, "guidsvc.monitoring.prometheus")
