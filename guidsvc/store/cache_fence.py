"""The fence: one document in the store that says whether the caches of its records may be used.

The store keeps it and swaps it, and knows nothing of what it means; `guidsvc.cache.fence_monitor` does.
"""

from enum import StrEnum
from typing import NamedTuple, Protocol

from guidsvc.domain.record import Record


class Mode(StrEnum):
    """What the fence says."""

    OFF = "off"
    """No cache is read or filled, and no write need tell it."""
    ARM = "arm"
    """None is read or filled yet, and every write tells it already."""
    ON = "on"


class Fence(NamedTuple):
    """What the fence says, of which generation it is, and which boot of the cache it is about.

    The generation rises whenever the fence is set to OFF or to ARM. A boot that is empty says that nobody holds an
    older view of the fence: it is new, or whoever set it had the store for itself.
    """

    mode: Mode
    gen: int
    epoch: str


NEW = Fence(Mode.OFF, 0, "")
"""The fence of a new store."""


class FenceReading(NamedTuple):
    """The fence, and the time in milliseconds by the store's own clock, whichever that is, when it was seen."""

    fence: Fence
    now: int


class Clocked(Protocol):
    """A store whose own clock can be read."""

    async def fence(self) -> FenceReading:
        """Return the fence as it is now, never as it was; and the time by the store's own clock."""


class FenceStore(Clocked, Protocol):
    """Records that can be cached in a place which the store does not know."""

    async def swap_fence(self, old: Fence, new: Fence) -> bool:
        """Put `new` in the place of `old`, atomically; False, and nothing is changed, if it is another by now."""

    async def get_linearizable(self, guid: str) -> Record | None:
        """Return what `get` does, when no write is half done that was begun before: so what is later is later."""
