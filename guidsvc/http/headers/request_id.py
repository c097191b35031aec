"""What a request is called, in its reply and in the log: by its caller, where that is sane, else by us."""

import itertools
import os
import re
from collections.abc import Iterator

_SANE = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(given: str) -> str:
    """Return the name that a request was given, if it is a sane one; else a new one."""
    return given if _SANE.fullmatch(given) else draw()


def _names() -> Iterator[str]:
    """Yield names that no other process has, of 32 hexadecimal digits.

    They are no secret: each is one more than the last, so two of them tell how many requests there were in between.
    Random names, even 256 for each call of the system, take half as long again.
    """
    process, first = os.urandom(8).hex(), int.from_bytes(os.urandom(6), "big")
    ends = [f"{end:03x}" for end in range(16**3)]
    for turn in itertools.count(first):
        start = f"{process}{turn:013x}"
        for end in ends:
            yield start + end


draw = _names().__next__
"""Returns a name that no other request has."""
