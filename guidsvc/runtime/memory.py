"""Return memory to the system: collect reference cycles, and trim the free memory that glibc retains."""

import asyncio
import ctypes
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

GROWTH_BYTES = 64 * 1024 * 1024
"""Growth since the last full collection that triggers the next one while the process is idle."""
BUSY_GROWTH_BYTES = 4 * GROWTH_BYTES
"""The same while requests are in progress: the pause is 0.1 s of CPU with 200,000 cached records."""
CHECK_SECONDS = 5.0
"""Interval between checks of the process size, in seconds."""

_STATUS = Path("/proc/self/statm")
_log = structlog.get_logger(__name__)


def _trimmer() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


_trim = _trimmer()


def release() -> None:
    """Collect young garbage, and return freed memory to the system if the C library can.

    Takes some milliseconds. Closed connections, above all with TLS, may be parts of reference cycles. The oldest
    generation is skipped, because its collection takes time in proportion to the cache size.
    """
    gc.collect(1)
    trim()


def leave_to_system() -> None:
    """Let the process end without a last collection: the system frees its memory as a whole.

    Python would examine all objects, and free those in reference cycles one by one: 10,000 requests take 0.5 s.
    """
    gc.freeze()


def trim() -> None:
    """Return freed memory to the system if the C library can."""
    if _trim is not None:
        _trim(0)


def resident_bytes() -> int | None:
    """Return the resident set size of this process, or None if the system does not report it."""
    try:
        pages = int(_STATUS.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class GrowthTrigger:
    """Decides when to collect the oldest generation, by the growth of the process since its smallest size."""

    def __init__(self) -> None:
        self._least_bytes: int | None = None

    def is_due(self, size_bytes: int, *, is_idle: bool) -> bool:
        """Return whether to collect now, at this size."""
        if self._least_bytes is None or size_bytes < self._least_bytes:
            self._least_bytes = size_bytes
        return size_bytes - self._least_bytes >= (GROWTH_BYTES if is_idle else BUSY_GROWTH_BYTES)

    def reset(self, size_bytes: int) -> None:
        """Measure growth from this size: what a collection left is in use."""
        self._least_bytes = size_bytes


async def collect_on_growth(is_idle: Callable[[], bool]) -> None:
    """Collect all generations whenever the process has grown, until cancelled.

    The thresholds of the collector count objects, not bytes, and let the oldest generation grow by millions of objects.
    """
    trigger = GrowthTrigger()
    while True:
        size_bytes = resident_bytes()
        if size_bytes is not None and trigger.is_due(size_bytes, is_idle=is_idle()):
            await _collect(size_bytes)
            trigger.reset(resident_bytes() or size_bytes)
        await asyncio.sleep(CHECK_SECONDS)


async def _collect(size_bytes: int) -> None:
    begun = time.monotonic()
    gc.collect()  # not in a thread: the GIL stops the others anyway, and finalizers belong on the loop
    pause_seconds = time.monotonic() - begun
    await asyncio.to_thread(trim)
    _log.debug("garbage collected", grown_to_bytes=size_bytes, pause_seconds=round(pause_seconds, 3))
