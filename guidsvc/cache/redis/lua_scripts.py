"""The Lua scripts of the cache protocol. Each first checks that the memory of Redis was not lost or replaced."""

from hashlib import sha1
from pathlib import Path
from typing import NamedTuple


class Script(NamedTuple):
    """A Lua script and its SHA-1 digest, which is its name in Redis."""

    source: str
    digest: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """Read a script from `scripts/`, and prepend the common part, `history.lua`."""
        parts = (
            (Path(__file__).parent / "scripts" / f"{part}.lua").read_text(encoding="utf-8")
            for part in ("history", name)
        )
        source = "".join(parts)
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


READ, FILL, BEGIN, END, LOOK, ADOPT = SCRIPTS = [
    Script.load(name) for name in ("read", "fill", "begin", "end", "look", "adopt")
]


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
