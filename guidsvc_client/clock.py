"""The clock by which the client counts: it is never set, and runs on while the host is suspended."""

import time
from collections.abc import Callable
from functools import partial

_ID: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""CLOCK_BOOTTIME (Linux) counts suspension. So does CLOCK_MONOTONIC of macOS, which `time.monotonic` does not read."""
clock: Callable[[], float] = time.monotonic if _ID is None else partial(time.clock_gettime, _ID)
"""Returns seconds. Windows has no clocks by id; there, `time.monotonic` counts suspension."""
