"""Time that can be stopped: then all clocks stand still, and no timer fires.

Health probes, sweeps and scans for time-outs run by timers. While time is stopped, only requests cause work.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

import uvloop

Arguments = TypeVarTuple("Arguments")

CLOCKS = "time", "time_ns", "monotonic", "perf_counter", "clock_gettime"
"""The clocks of the `time` module that stop. The service reads a single clock by `clock_gettime`."""
_NEVER_SECONDS = 86_400.0


class StoppableTime:
    """The clocks of this process, until they are stopped."""

    def __init__(self) -> None:
        self.is_stopped = False

    def replace_clocks(self) -> None:
        """Replace the clocks of the `time` module. Modules that are imported later get the replacements."""
        for name in CLOCKS:
            setattr(time, name, self._stoppable(getattr(time, name)))

    def _stoppable(self, clock: Callable[..., float]) -> Callable[..., float]:
        last: dict[tuple[int, ...], float] = {}

        def stoppable(*clock_id: int) -> float:
            if not self.is_stopped or clock_id not in last:
                last[clock_id] = clock(*clock_id)
            return last[clock_id]

        return stoppable


class StoppableLoop(uvloop.Loop):
    """An event loop whose timers never fire while time is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped_at: float | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return super().time() if self._stopped_at is None else self._stopped_at

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._stopped_at is not None:
            return super().call_later(_NEVER_SECONDS, callback, *args, context=context)
        timer = super().call_later(delay, callback, *args, context=context)
        self._timers.append(timer)
        return timer

    def stop_time(self) -> None:
        """Stop the time of this loop, and cancel its timers."""
        self._stopped_at = super().time()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
