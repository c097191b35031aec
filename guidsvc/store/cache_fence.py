"""The cache fence: one document in the store that says whether caches of its records may be used.

The store only holds and swaps it; `guidsvc.cache.fence_monitor` interprets it.
"""

from enum import StrEnum
from typing import NamedTuple, Protocol


class Mode(StrEnum):
    """The state of the fence."""

    OFF = "off"
    """No process reads or fills a cache, and writes need not invalidate it."""
    ARM = "arm"
    """No process reads or fills a cache yet, but every write already invalidates it."""
    ON = "on"


class Fence(NamedTuple):
    """The mode of the fence, its generation, and the cache epoch that it refers to.

    The generation rises whenever the fence is set to OFF or ARM. An empty epoch means that no process holds an older
    view of the fence: the fence is new, or was set by a process that had the store to itself.
    """

    mode: Mode
    gen: int
    epoch: str


NEW = Fence(Mode.OFF, 0, "")
"""The fence of a new store."""


class FenceReading(NamedTuple):
    """The fence, and the time of the reading in milliseconds by the store's own clock, of unspecified origin."""

    fence: Fence
    now: int


class FenceReader(Protocol):
    """The fence, which also tells the clock of the store."""

    async def read(self) -> FenceReading:
        """Return the current fence, never a stale one, and the time by the store's own clock."""


class FenceStore(FenceReader, Protocol):
    """The stored fence. Both methods may raise Unavailable, which means that nothing was changed."""

    async def swap(self, old: Fence, new: Fence) -> bool:
        """Replace `old` with `new` atomically; return False, and change nothing, if the stored fence is not `old`."""
