"""Slots shared fairly by groups: each group may hold a limited number, and groups get free slots in turn."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from guidsvc.runtime.fairness.fair_queue import FairQueue, Waiter

LONG = 0.1
"""Once a group's first waiter has waited this fraction of the queue time, the group's next ones are rejected. Waiting
requests fill memory, and scanning many takes time: at 0.5, overload cost a fifth of the throughput of admission
(`python -m bench.overload`)."""

W = TypeVar("W", bound=Waiter)


class FairSlots(Generic[W]):
    """A counter of slots, and a queue of waiters. The caller of `release` must wake the waiter.

    A group is, for example, an owner. None stands for a group not yet known, or for the service's own work: its slots
    are unlimited until they are assigned to a group. Only None may take the last `reserved` slots.
    """

    def __init__(self, slots: int, max_per_group: int, *, reserved: int = 0) -> None:
        self.free = slots
        self._reserved = reserved
        self.waiting: FairQueue[W] = FairQueue()
        self._max_per_group = max_per_group
        self._held_slots: dict[Hashable, int] = {}  # only groups that hold slots

    def has_room(self, group: Hashable) -> bool:
        """Return whether a group may hold one more slot, if one is free."""
        if group is None:
            return True
        return self.free > self._reserved and self._held_slots.get(group, 0) < self._max_per_group

    def count(self, group: Hashable) -> int:
        """Return the number of slots that a group holds."""
        return self._held_slots.get(group, 0)

    def take(self, group: Hashable) -> bool:
        """Take a slot for a group if one is free and the group is below its limit; return whether it did."""
        if self.free <= 0:
            return False
        if group is not None and not (self.free > self._reserved and self.assign(group)):
            return False
        self.free -= 1
        return True

    def assign(self, group: Hashable) -> bool:
        """Assign a slot of the group None to this group if it is below its limit; return whether it did."""
        held = self._held_slots.get(group, 0)
        if held >= self._max_per_group:
            return False
        self._held_slots[group] = held + 1
        return True

    def release(self, group: Hashable) -> W | None:
        """Release a group's slot. If a waiter gets it, remove the waiter from the queue and return it."""
        self.free += 1
        if group is not None:
            held = self._held_slots[group] - 1
            if held:
                self._held_slots[group] = held
            else:
                del self._held_slots[group]
        return self.next() if self.waiting.length else None

    def next(self) -> W | None:
        """Give a free slot to the next waiter that may have it; remove it from the queue, and return it."""
        next_waiter = self.waiting.pop(self.has_room)
        if next_waiter is None:
            return None
        self.take(next_waiter[0])
        return next_waiter[1]


class DynamicSlots(FairSlots[W]):
    """Slots of which each group leaves as many free as it holds, but may always hold one: a dynamic threshold.

    So groups that hold their slots for long leave some to others. A release may let several waiters go on: call `next`
    until it returns None.
    """

    def has_room(self, group: Hashable) -> bool:
        return super().has_room(group) and self._leaves_enough(group)

    def assign(self, group: Hashable) -> bool:
        return self._leaves_enough(group) and super().assign(group)

    def _leaves_enough(self, group: Hashable) -> bool:
        held = self.count(group)
        return not held or held + 1 < self.free
