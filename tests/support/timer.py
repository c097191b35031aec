"""A monotonic clock for code that measures durations. `FakeClock` is the time of day."""


class Timer:
    """A monotonic clock, in seconds, that stands still until a test sets `now`."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
