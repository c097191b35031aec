"""CPU times that are comparable between machines: as on the machine for which the limits of the tests were set."""

import json
import time

REFERENCE_SECONDS = 0.00025
"""CPU time of the reference work on that machine."""
_RUNS = 5
_TEXT = f"[{','.join(['[[1, 2], {}]'] * 1000)}]"


def slowness() -> float:
    """Return how many times as long work takes here and now as on that machine; at least 1.

    Other processes on the same cores lengthen the CPU time, too. So call this right after the measured work.
    """
    return max(1.0, min(_reference_seconds() for _ in range(_RUNS)) / REFERENCE_SECONDS)


def _reference_seconds() -> float:
    start = time.process_time()
    json.loads(_TEXT)
    return time.process_time() - start
