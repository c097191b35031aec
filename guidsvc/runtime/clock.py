"""The clocks: wall time, and time that passes even while the host is suspended.

`time.monotonic`, `time.perf_counter` and the timers of the event loop stand still while the host is suspended, on Linux
and on macOS. So they only measure, pace work and limit waits. What must end by itself (a lease, a session, a deadline,
a cached result) is checked at each use, by `continuous_clock`. `tests/meta/test_clocks.py` enforces this.
"""

import time
from collections.abc import Callable
from functools import partial

Clock = Callable[[], int]
"""Returns the current time in Unix milliseconds."""
ContinuousClock = Callable[[], float]
"""Returns the seconds of a clock that is never set, and runs on while the process or its host is suspended."""

CONTINUOUS_CLOCK_ID: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""CLOCK_BOOTTIME (Linux) counts suspension. So does CLOCK_MONOTONIC of macOS, which `time.monotonic` does not read."""

continuous_clock: ContinuousClock = partial(time.clock_gettime, CONTINUOUS_CLOCK_ID)
"""The continuous clock of this host. All its processes share it. A `partial` costs each read no Python call."""


def system_clock() -> int:
    """Return the host's time in Unix milliseconds."""
    return time.time_ns() // 1_000_000
