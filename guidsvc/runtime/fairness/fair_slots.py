"""Places shared fairly by groups: one group has at most so many, and a free one goes to the group whose turn it is."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from guidsvc.runtime.fairness.fair_queue import FairQueue, Waiter

W = TypeVar("W", bound=Waiter)


class FairPlaces(Generic[W]):
    """Counts places, and queues those who wait for one. Waking a waiter is up to the caller of `release`.

    A group is an owner, for example. The group None stands for one that is not known yet: its places are not limited,
    until they are assigned to a group.
    """

    def __init__(self, places: int, most_of_group: int) -> None:
        self.free = places
        self.waiting: FairQueue[W] = FairQueue()
        self._most_of_group = most_of_group
        self._taken: dict[Hashable, int] = {}  # a group that has none has no entry

    def has_room(self, group: Hashable) -> bool:
        """Whether a group may have one more place."""
        return self._taken.get(group, 0) < self._most_of_group

    def count(self, group: Hashable) -> int:
        """Return the number of places that a group has."""
        return self._taken.get(group, 0)

    def take(self, group: Hashable) -> bool:
        """Take a place for a group if one is free and the group may have it; whether it did."""
        if self.free <= 0 or (group is not None and not self.assign(group)):
            return False
        self.free -= 1
        return True

    def assign(self, group: Hashable) -> bool:
        """Count a place of no known group to this one, if it may have one more; whether it did."""
        taken = self._taken.get(group, 0)
        if taken >= self._most_of_group:
            return False
        self._taken[group] = taken + 1
        return True

    def release(self, group: Hashable) -> W | None:
        """Return a place of a group. If it goes to a waiter, remove that from the queue and return it."""
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
