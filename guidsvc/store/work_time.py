"""The time for which a store works on calls, without their waits: for a thread, a lock, a pause, or other calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class WorkTime:
    """A sum of times."""

    def __init__(self) -> None:
        self.seconds = 0.0


_CURRENT: ContextVar[WorkTime | None] = ContextVar("work_time", default=None)


@contextmanager
def measured_work() -> Iterator[WorkTime]:
    """Measure the work on the searches and counts that the block awaits."""
    work_time = WorkTime()
    token = _CURRENT.set(work_time)
    try:
        yield work_time
    finally:
        _CURRENT.reset(token)


def add_work(seconds: float) -> None:
    """Add the time of work on a call of the current block. Do nothing if it is not measured."""
    work_time = _CURRENT.get()
    if work_time is not None:
        work_time.seconds += seconds
