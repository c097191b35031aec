"""The clock: wall time in milliseconds since the epoch."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Tells the time: Unix milliseconds."""


def system_clock() -> int:
    """Return the time of this host, in Unix milliseconds."""
    return time.time_ns() // 1_000_000
