"""What is watched while the service runs: its meters, how late the event loop is, and what workers tell each other.

Where several processes serve together, each writes what it has counted into a folder that they share, a few times a
second, and any of them tells of all.
"""

import asyncio
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from guidsvc.errors import StoreUnavailable
from guidsvc.http.headers.diagnostics import DiagnosticHeaders
from guidsvc.runtime.background import spawn_detached
from guidsvc.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from guidsvc.monitoring.prometheus import MetricFiles, MultiProcessCollector

SAMPLE_SECONDS = 0.25
"""How often is looked how late the event loop is."""
SAMPLES = 2
"""What was counted is handed over every so many looks."""

TOLD = 10
"""Of files that cannot be read so many are named in the log."""

_log = structlog.get_logger(__name__)


class ProcessMonitor:
    """Watches a process; `folder` is the one that it shares with others, if it does; `about` says what it is."""

    def __init__(
        self,
        meters: Metrics | None = None,
        *,
        origin: DiagnosticHeaders | None = None,
        folder: Path | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.meters = Metrics() if meters is None else meters
        self.origin = DiagnosticHeaders() if origin is None else origin
        self._folder = folder
        self._about = about or {}
        self._files: MetricFiles | None = None
        self._failing = False
        self._renderings: dict[str, asyncio.Task[tuple[bytes, str]]] = {}  # by media type
        self._is_rendering = asyncio.Lock()
        self._left_out: set[str] = set()  # of the files that others, or nobody, can read

    async def run(self) -> None:
        """Look how late the loop is, and hand over what was counted, until cancelled."""
        samples = 0
        if self._folder is not None:
            await _load()
        while True:
            begun = monotonic()
            await asyncio.sleep(SAMPLE_SECONDS)
            self.meters.lag.observe(max(0.0, monotonic() - begun - SAMPLE_SECONDS))
            samples += 1
            if samples % SAMPLES == 0:
                self.publish()

    def publish(self) -> None:
        """Write what was counted for the other processes, if there are any."""
        if self._folder is None:
            return
        try:
            self._write(self._folder)
        except OSError as error:
            if not self._failing:
                _log.warning("metrics cannot be written", error=str(error))
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Hand over what was counted last, which stays when this process has ended."""
        for rendering in self._renderings.values():
            rendering.cancel()
        self.publish()
        if self._files is not None:
            self._files.close()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all processes, and their media type; StoreUnavailable if they cannot be read.

        All who ask for one media type while it is rendered are given the same.
        """
        await _load()
        from guidsvc.monitoring import prometheus as exposition

        media_type = exposition.media_type_of(accept)
        rendering = self._renderings.get(media_type)
        if rendering is None:
            rendering = self._renderings[media_type] = spawn_detached(self._render_alone(accept))
            rendering.add_done_callback(lambda done: self._rendered(media_type, done))
        return await asyncio.shield(rendering)

    def _rendered(self, media_type: str, rendering: "asyncio.Task[tuple[bytes, str]]") -> None:
        del self._renderings[media_type]
        if not rendering.cancelled():
            rendering.exception()  # whoever waits for it is given it; nobody may be left

    async def _render_alone(self, accept: str) -> tuple[bytes, str]:
        """Render when nothing else is being rendered: that takes a thread, and time that the loop needs, too."""
        async with self._is_rendering:
            return await self._render_all(accept)

    async def _render_all(self, accept: str) -> tuple[bytes, str]:
        from guidsvc.monitoring import prometheus as exposition

        if self._folder is None:
            alone = exposition.SingleProcessCollector(self.meters, self._about)
            return await asyncio.to_thread(exposition.render, alone, accept)
        try:
            rendered, has_news = await self._render(exposition.MultiProcessCollector(self._folder), accept)
            return (
                (await self._render(exposition.MultiProcessCollector(self._folder), accept))[0]
                if has_news
                else rendered
            )
        except (OSError, ValueError) as error:
            raise StoreUnavailable(f"metrics cannot be read: {error}") from error

    async def _render(self, together: "MultiProcessCollector", accept: str) -> tuple[tuple[bytes, str], bool]:
        """Render what all have written, and note the files that were left out; whether others were than before."""
        from guidsvc.monitoring import prometheus as exposition

        self.publish()
        rendered = await asyncio.to_thread(exposition.render, together, accept)
        news = set(together.left_out) - self._left_out
        self._left_out = set(together.left_out)
        if news:
            self.meters.metric_files_left_out += len(news)
            _log.warning("files of metrics left out, they cannot be read", files=sorted(news)[:TOLD])
        return rendered, bool(news)

    def _write(self, folder: Path) -> None:
        if self._files is None:
            from guidsvc.monitoring.prometheus import MetricFiles

            self._files = MetricFiles(folder)
        self._files.write(self.meters, self._about)


async def _load() -> None:
    """Import what lays metrics out, beside the loop, which that would hold up."""
    await asyncio.to_thread(import_module, "guidsvc.monitoring.prometheus")
