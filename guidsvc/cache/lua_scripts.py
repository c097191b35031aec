"""The Lua scripts of the cache protocol, each of which first checks that the memory of Redis is still the same."""

from hashlib import sha1
from pathlib import Path
from typing import NamedTuple


class Script(NamedTuple):
    """A Lua script and the name it has in Redis."""

    source: str
    digest: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """Read one of the scripts beside this module, behind what all of them begin with."""
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
    """A number in Redis that this process alone writes and that only rises, until the memory of Redis goes back."""

    def __init__(self) -> None:
        self._boot = ""
        self._reached = self._drawn = 0

    def next(self, boot: str) -> tuple[int, int]:
        """Return the number that the guard must have reached under this boot, and the next."""
        self._drawn += 1
        return self._reached if boot == self._boot else 0, self._drawn

    def reach(self, boot: str, number: int) -> None:
        """Note that Redis has said to have set it to this number."""
        self._boot, self._reached = boot, number
