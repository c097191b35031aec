"""guidsvc on a host that is suspended: its monotonic clocks stand still meanwhile, as those of Linux do.

A test stops the process with SIGSTOP, which the clocks of the host do not notice. So the file `suspended` in the folder
of the service has the seconds of all suspensions, and the clocks of Python subtract them. CLOCK_BOOTTIME and the time
of day run on. The event loop is that of asyncio, whose timers count by such a clock; uvloop reads the clock in C.
"""

import mmap
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.backing_servers import Service, service

STATE = Path("suspended")
_SECONDS = struct.Struct("d")
_STANDING = {"monotonic": 1, "perf_counter": 1, "monotonic_ns": 10**9, "perf_counter_ns": 10**9}
"""The clocks that stand still, and their units per second."""


class SuspendableHost:
    """A service whose host can be suspended."""

    def __init__(self, running: Service, state: Path) -> None:
        self.port = running.port
        self._running = running
        self._state = state
        self._suspended_seconds = 0.0

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the host inside the block."""
        self._running.pause()
        paused_at = time.monotonic()
        try:
            yield
        finally:
            self._suspended_seconds += time.monotonic() - paused_at
            with self._state.open("r+b") as file:
                file.write(_SECONDS.pack(self._suspended_seconds))
            self._running.resume()


@contextmanager
def suspendable_service(folder: Path, *options: str) -> Iterator[SuspendableHost]:
    """Run a service inside the block, on a host that can be suspended."""
    folder.mkdir(exist_ok=True)
    (folder / STATE).write_bytes(_SECONDS.pack(0.0))
    with service(folder, *options, program=Path(__file__), is_forked=False) as running:
        yield SuspendableHost(running, folder / STATE)


def _replace_clocks() -> None:
    """Replace the clocks of `time`. Modules that are imported later get the replacements."""
    with STATE.open("rb") as file:
        state = mmap.mmap(file.fileno(), _SECONDS.size, access=mmap.ACCESS_READ)
    for name, units in _STANDING.items():
        setattr(time, name, _standing(getattr(time, name), units, state))
    for name, units in {"clock_gettime": 1, "clock_gettime_ns": 10**9}.items():
        setattr(time, name, _standing_by_id(getattr(time, name), units, state))


def _standing(clock: Callable[[], float], units: int, state: mmap.mmap) -> Callable[[], float]:
    number = type(clock())

    def reading() -> float:
        return clock() - number(units * _SECONDS.unpack_from(state)[0])

    return reading


def _standing_by_id(clock: Callable[[int], float], units: int, state: mmap.mmap) -> Callable[[int], float]:
    standing = _standing(lambda: clock(time.CLOCK_MONOTONIC), units, state)
    return lambda clock_id: standing() if clock_id == time.CLOCK_MONOTONIC else clock(clock_id)


if __name__ == "__main__":
    _replace_clocks()
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # then its import fails
    from guidsvc.cli.main import main

    main()
