"""A fair queue: groups take turns (round robin), and the waiters of one group are served in order of arrival."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    """An entry of the queue, such as a future."""

    def done(self) -> bool:
        """Return whether it no longer waits, so that its turn goes to the next waiter of its group."""


W = TypeVar("W", bound=Waiter)


class FairQueue(Generic[W]):
    """A queue of waiters by group. A group has an entry only while it has waiters.

    All operations but iteration are O(1), except that `pop` skips groups that are not eligible.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, OrderedDict[W, None]] = OrderedDict()  # next turn first
        self.length = 0
        """The number of waiters of all groups. An attribute, because it is read for each request."""

    def __iter__(self) -> Iterator[tuple[Hashable, W]]:
        """Iterate over (group, waiter) pairs. Copy them first to remove any."""
        return ((group, waiter) for group, waiters in self._groups.items() for waiter in waiters)

    def count(self, group: Hashable) -> int:
        """Return the number of waiters of a group."""
        return len(self._groups.get(group, ()))

    def first(self, group: Hashable) -> W | None:
        """Return the first waiter of a group, or None if the group has none."""
        return next(iter(self._groups.get(group, ())), None)

    def append(self, group: Hashable, waiter: W) -> None:
        """Add a waiter. A new group gets the last turn."""
        self._groups.setdefault(group, OrderedDict())[waiter] = None
        self.length += 1

    def remove(self, group: Hashable, waiter: W) -> None:
        """Remove a waiter if it is still queued."""
        waiters = self._groups.get(group)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        self.length -= 1
        if not waiters:
            del self._groups[group]

    def pop(self, is_eligible: Callable[[Hashable], bool]) -> tuple[Hashable, W] | None:
        """Remove and return the first waiter of the next eligible group, or return None if no eligible group waits."""
        while True:
            eligible = next(((group,) for group in self._groups if is_eligible(group)), None)  # a group may be None
            if eligible is None:
                return None
            waiter = self._pop_first(eligible[0])
            if waiter is not None:
                return eligible[0], waiter

    def _pop_first(self, group: Hashable) -> W | None:
        """Remove and return a group's first waiter that is not done. A group without waiters loses its entry."""
        waiters, first = self._groups[group], None
        while waiters and first is None:
            waiter, _ = waiters.popitem(last=False)
            self.length -= 1
            first = None if waiter.done() else waiter
        if waiters:
            self._groups.move_to_end(group)
        else:
            del self._groups[group]
        return first
