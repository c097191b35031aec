"""A time budget for work in one iteration of the event loop, while all other requests wait."""

import asyncio

from guidsvc.runtime.clock import ContinuousClock, continuous_clock


class IterationBudget:
    """Delays the tasks of one request to later iterations, once those before them have taken `seconds` in this one."""

    def __init__(self, seconds: float, timer: ContinuousClock = continuous_clock) -> None:
        self._seconds = seconds
        self._timer = timer
        self._since: float | None = None  # the time of the first task in this iteration

    async def wait(self) -> None:
        """Return at once, or in the first iteration that has time left."""
        while self._since is not None and self._timer() - self._since >= self._seconds:  # noqa: ASYNC110  # it waits for the next iteration
            await asyncio.sleep(0)
        if self._since is None:
            self._since = self._timer()
            asyncio.get_running_loop().call_soon(self._end_iteration)

    def _end_iteration(self) -> None:
        self._since = None
