"""CPU times that are comparable between machines: as on the machine for which the limits of the tests were set."""

import time
from collections.abc import Callable

from pydantic_core import from_json

_RUNS = 5
_TEXT = b"[" + b"[[[]]]," * 9_000 + b"1]"
"""As large as the largest body: it needs as much memory, whose cost differs between processes."""


def _parse() -> None:
    from_json(_TEXT)


def _compute() -> None:
    sum(len(str(number).split("5")) for number in range(1000))


REFERENCES: dict[Callable[[], None], float] = {_parse: 0.0018, _compute: 0.00014}
"""Work that mostly allocates memory, and work that does not, with the CPU time of each on that machine in seconds."""


def slowness() -> float:
    """Return how many times as long work takes here and now as on that machine; at least 1.

    Other processes on the same cores lengthen the CPU time, too. So call this right after the measured work.
    """
    return max(1.0, *(min(_seconds(work) for _ in range(_RUNS)) / seconds for work, seconds in REFERENCES.items()))


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
