"""Slots shared fairly by groups: each group may hold a limited number, and groups get free slots in turn."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from guidsvc.runtime.fairness.fair_queue import FairQueue, Waiter

W = TypeVar("W", bound=Waiter)


class FairPlaces(Generic[W]):
    """A counter of slots, and a queue of waiters. The caller of `release` must wake the waiter.

    A group is, for example, an owner. None stands for a group not yet known: its slots are unlimited until they are
    assigned to a group.
    """

    def __init__(self, places: int, most_of_group: int) -> None:
        self.free = places
        self.waiting: FairQueue[W] = FairQueue()
        self._most_of_group = most_of_group
        self._taken: dict[Hashable, int] = {}  # only groups that hold slots

    def has_room(self, group: Hashable) -> bool:
        """Return whether a group may hold one more slot."""
        return self._taken.get(group, 0) < self._most_of_group

    def count(self, group: Hashable) -> int:
        """Return the number of slots that a group holds."""
        return self._taken.get(group, 0)

    def take(self, group: Hashable) -> bool:
        """Take a slot for a group if one is free and the group is below its limit; return whether it did."""
        if self.free <= 0 or (group is not None and not self.assign(group)):
            return False
        self.free -= 1
        return True

    def assign(self, group: Hashable) -> bool:
        """Assign a slot of the group None to this group if it is below its limit; return whether it did."""
        taken = self._taken.get(group, 0)
        if taken >= self._most_of_group:
            return False
        self._taken[group] = taken + 1
        return True

    def release(self, group: Hashable) -> W | None:
        """Release a group's slot. If a waiter gets it, remove the waiter from the queue and return it."""
        self.free += 1
        if group is not None:
            taken = self._taken[group] - 1
            if taken:
                self._taken[group] = taken
            else:
                del self._taken[group]
        return self._next() if self.waiting.length else None

    def _next(self) -> W | None:
        found = self.waiting.pop(self.has_room)
        if found is None:
            return None
        self.take(found[0])
        return found[1]
