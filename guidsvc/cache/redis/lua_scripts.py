"""The Lua scripts. Those of the cache protocol first check that the memory of Redis was not lost or replaced."""

import re
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple

from redis.exceptions import InvalidResponse


class Script(NamedTuple):
    """A Lua script and its SHA-1 digest, which is its name in Redis."""

    source: str
    digest: str

    @classmethod
    def load(cls, *names: str) -> "Script":
        """Read a script from `scripts/`, in one or more parts."""
        source = "".join(
            (Path(__file__).parent / "scripts" / f"{name}.lua").read_text(encoding="utf-8") for name in names
        )
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


READ, FILL, BEGIN, END, LOOK, ADOPT = SCRIPTS = [
    Script.load("history", name) for name in ("read", "fill", "begin", "end", "look", "adopt")
]
"""The scripts of the cache protocol."""
COUNT = Script.load("count")
"""The script of `guidsvc.cache.redis.counters`."""

NOT_LOOKED_UP = b"N"
"""The value of READ for a GUID for which its reply had no room. The first value is never this."""

_EPOCH = re.compile(rb"\w+\.[0-9]{1,18}\.\w+")


def values_in(script: Script, reply: Any, count: int) -> Sequence[Any]:
    """Return the values in the reply of a script to `count` calls; InvalidResponse if it cannot be its reply.

    The reply to READ has the values of all calls. Other scripts have one call. A value is None if the epoch is over.
    """
    if reply is None:
        return [None] * count
    if script is READ:
        is_valid = type(reply) is list and len(reply) == count and {*map(type, reply)} == {bytes}
        is_valid = is_valid and reply[0] != NOT_LOOKED_UP
        values = reply
    else:
        is_valid = type(reply) is bytes and bool(_EPOCH.fullmatch(reply)) if script is ADOPT else type(reply) is int
        values = [reply]
    if not is_valid:
        raise InvalidResponse("a script of this service got a reply that is not its own")
    return values  # type: ignore[no-any-return]  # now it is known what it is


class MemoryGuard:
    """A rising counter in Redis that only this process writes; a lower value shows that Redis was rolled back."""

    def __init__(self) -> None:
        self._epoch = ""
        self._confirmed = self._issued = 0

    def next(self, epoch: str) -> tuple[int, int]:
        """Return the value that the counter must have reached in this epoch, and the next value to set."""
        self._issued += 1
        return self._confirmed if epoch == self._epoch else 0, self._issued

    def reach(self, epoch: str, number: int) -> None:
        """Note that Redis confirmed this value."""
        self._epoch, self._confirmed = epoch, number
