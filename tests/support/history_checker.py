"""Check a history of client operations for stale reads, reads that go back in time, and lost writes.

A history is a list of operations, with the times of one clock before a request is sent and after its response arrives.
A write whose response was "not applied" must never be read. A write without a response may become visible at any later
time, or never.

Versions of a key only rise, also across deletion and creation, so all states of a key have positions on one line: the
write of version v is at 2v, its deletion at 2v + 1, and 0 is the state before any write. A history is valid if each
operation is at or above the position of every operation that ended before it began. If the clock is so coarse that one
operation ends at the time at which the next begins, the two count as simultaneous.

The checker depends on no service and no cache, and does no input or output. It takes O(n log n).
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from math import inf
from operator import attrgetter, itemgetter

from tests.support.history import Delete, Operation, Outcome, Read, Rule, Violation, Write


def check(operations: Iterable[Operation], final: Iterable[Read] = ()) -> list[Violation]:
    """Return the violations. `final` are reads after all operations have ended, preferably of the store itself."""
    histories: dict[str, tuple[list[Operation], list[Read]]] = defaultdict(lambda: ([], []))
    for operation in operations:
        histories[operation.key][0].append(operation)
    for read in final:
        histories[read.key][1].append(read)
    return [violation for key in sorted(histories) for violation in _Key(key, *histories[key]).check()]


class _Key:
    """The history of one key, checked in the order in which its operations began."""

    def __init__(self, key: str, operations: list[Operation], final: list[Read]) -> None:
        self._key = key
        self._operations = sorted(operations, key=attrgetter("start"))
        self._final = final
        self._violations: list[Violation] = []
        self._versions = _Versions([operation for operation in operations if isinstance(operation, Write)])
        self._deletes = _Deletes([])
        self._pending: list[tuple[float, int, int, Operation]] = []
        self._acknowledged: tuple[int, Operation | None] = (0, None)
        self._newest_read: tuple[int, Operation | None] = (0, None)

    def check(self) -> list[Violation]:
        """Return the violations. May be called once."""
        for fault in self._versions.duplicates():
            self._report(*fault)
        valid = {id(operation) for operation in (*self._operations, *self._final) if self._has_a_write(operation)}
        self._deletes = _Deletes(self._possible_deletes(valid))
        for fault in self._deletes.duplicates():
            self._report(*fault)
        for operation in self._operations:
            self._pass_to(operation.start)
            if not isinstance(operation, Read):
                self._change(operation)
            elif id(operation) in valid:
                self._end(operation, self._position_of_read(operation, Rule.STALE, Rule.BACK))
        self._pass_to(inf)
        for read in self._final:
            if id(read) in valid:
                self._position_of_read(read, Rule.LOSS, Rule.LOSS)
        return self._violations

    def _possible_deletes(self, valid: set[int]) -> list[Delete]:
        """Return the deletions, except those without a response that began after their version was replaced."""
        ends = sorted(
            (operation.end, position)
            for operation in self._operations
            if (position := self._known_position(operation, valid))
        )
        highest = list(accumulate((position for _, position in ends), max, initial=0))
        return [
            operation
            for operation in self._operations
            if isinstance(operation, Delete)
            and (
                operation.outcome is not Outcome.UNKNOWN
                or highest[bisect_left(ends, (operation.start,))] <= 2 * operation.base
            )
        ]

    def _known_position(self, operation: Operation, valid: set[int]) -> int:
        """Return the position of an operation if its response determines it, else 0."""
        if isinstance(operation, Read):
            return 2 * (operation.version or 0) if id(operation) in valid else 0
        return (operation.outcome is Outcome.OK and self._position(operation)) or 0

    def _report(self, rule: Rule, reason: str, *operations: Operation | None) -> None:
        self._violations.append(
            Violation(rule, self._key, reason, tuple(operation for operation in operations if operation is not None))
        )

    def _has_a_write(self, operation: Operation) -> bool:
        """Record which version the write of a read created; return whether there is such a write."""
        if not isinstance(operation, Read) or operation.version is None:
            return True
        fault = self._versions.learn(operation)
        if fault is not None:
            self._report(*fault)
        return fault is None

    def _pass_to(self, now: float) -> None:
        """Raise the floors by the operations that ended before now."""
        while self._pending and self._pending[0][0] < now:
            positioned = heappop(self._pending)[2:]
            if isinstance(positioned[1], Read):
                self._newest_read = max(self._newest_read, positioned, key=itemgetter(0))
            else:
                self._acknowledged = max(self._acknowledged, positioned, key=itemgetter(0))

    def _end(self, operation: Operation, position: int | None) -> None:
        if position is not None:
            heappush(self._pending, (operation.end, id(operation), position, operation))

    def _position_of_read(self, read: Read, stale: Rule, back: Rule) -> int | None:
        """Return the position of a read; if it has none, record a violation."""
        acknowledged, newest_read = self._acknowledged, self._newest_read
        if self._fitting_position(read, acknowledged[0]) is None:
            rejected_delete = self._deletes.refused(acknowledged[0], read.end) if read.version is None else None
            if rejected_delete is None:
                self._report(stale, "older than what was acknowledged", acknowledged[1], read)
            else:
                self._report(
                    Rule.PHANTOM, "deleted by a deletion whose response was not applied", rejected_delete, read
                )
            return None
        position = self._fitting_position(read, max(acknowledged[0], newest_read[0]))
        if position is None:
            self._report(back, "older than what was read", newest_read[1], read)
        return position

    def _fitting_position(self, read: Read, floor: int) -> int | None:
        """Return the lowest position at or above the floor that fits what the read returned."""
        if read.version is not None:
            return 2 * read.version if 2 * read.version >= floor else None
        if floor == 0:
            return 0
        delete = self._deletes.done(floor, read.end)
        return None if delete is None else 2 * delete.base + 1

    def _change(self, operation: Write | Delete) -> None:
        position = self._position(operation)
        floor, previous = max(self._acknowledged, self._newest_read, key=itemgetter(0))
        if position is not None and position <= floor:
            self._report(Rule.VERSION, "not above the version before", previous, operation)
        if operation.outcome is Outcome.OK:
            self._end(operation, position)

    def _position(self, operation: Write | Delete) -> int | None:
        """Return the position of a change; None if it may never have been applied."""
        if isinstance(operation, Delete):
            return 2 * operation.base + 1 if operation.outcome is Outcome.OK else None
        version = self._versions.version(operation)
        return None if version is None else 2 * version


_Fault = tuple[Rule, str, *tuple[Operation, ...]]


class _Versions:
    """Which write created which version, according to acknowledgements and reads."""

    def __init__(self, writes: list[Write]) -> None:
        self._writes = {write.mark: write for write in writes}
        if len(self._writes) < len(writes):
            raise ValueError("the marks of writes must be unique")
        self._by_version: dict[int, tuple[str, Operation]] = {}
        self._by_mark: dict[str, tuple[int, Operation]] = {}

    def duplicates(self) -> list[_Fault]:
        """Record the acknowledged writes; return those that have the version of another write."""
        acknowledged = [(write.version, write.mark, write) for write in self._writes.values()]
        faults = [self._note(version, mark, write) for version, mark, write in acknowledged if version is not None]
        return [fault for fault in faults if fault is not None]

    def learn(self, read: Read) -> _Fault | None:
        """Record the version and mark of a read, or return what is wrong with it."""
        assert read.version is not None
        write = self._writes.get(read.mark or "")
        if write is None:
            return Rule.PHANTOM, "nobody wrote this", read
        if write.outcome is Outcome.NO:
            return Rule.PHANTOM, "read, though its response was not applied", write, read
        if write.start >= read.end:
            return Rule.PHANTOM, "read before it was written", read, write
        return self._note(read.version, write.mark, read)

    def version(self, write: Write) -> int | None:
        """Return the version that a write created, if any response revealed it."""
        version, _ = self._by_mark.get(write.mark, (write.version, None))
        return version

    def _note(self, version: int, mark: str, operation: Operation) -> _Fault | None:
        one_mark, same_version = self._by_version.setdefault(version, (mark, operation))
        if one_mark != mark:
            return Rule.VERSION, "one version of two writes", same_version, operation
        one_version, same_mark = self._by_mark.setdefault(mark, (version, operation))
        if one_version != version:
            return Rule.VERSION, "two versions of one write", same_mark, operation
        return None


class _Deletes:
    """Which deletion deleted which version."""

    def __init__(self, deletes: list[Delete]) -> None:
        self._done = sorted((delete for delete in deletes if delete.outcome is Outcome.OK), key=attrgetter("start"))
        self.done = _Earliest([delete for delete in deletes if delete.outcome is not Outcome.NO]).first
        self.refused = _Earliest([delete for delete in deletes if delete.outcome is Outcome.NO]).first

    def duplicates(self) -> list[_Fault]:
        """Return the pairs of deletions that deleted the same version."""
        first: dict[int, Delete] = {}
        pairs = [(first.setdefault(delete.base, delete), delete) for delete in self._done]
        # A deletion that begins after the end of the other is reported when the sweep reaches it.
        return [(Rule.VERSION, "one version deleted twice", a, b) for a, b in pairs if a is not b and a.end >= b.start]


class _Earliest:
    """Deletions by position, in a tree of their earliest starts, to find the first that began before a time."""

    def __init__(self, deletes: Sequence[Delete]) -> None:
        earliest: dict[int, Delete] = {}
        for delete in sorted(deletes, key=attrgetter("start")):
            earliest.setdefault(delete.base, delete)
        self._deletes = [earliest[base] for base in sorted(earliest)]
        self._positions = [2 * delete.base + 1 for delete in self._deletes]
        self._leaves = 1 << len(self._deletes).bit_length()
        starts = [delete.start for delete in self._deletes]
        self._tree = [inf] * self._leaves + starts + [inf] * (self._leaves - len(starts))
        for node in range(self._leaves - 1, 0, -1):
            self._tree[node] = min(self._tree[2 * node], self._tree[2 * node + 1])

    def first(self, floor: int, before: float) -> Delete | None:
        """Return the deletion with the lowest position at or above the floor that began before a time."""
        node = self._leaves + bisect_left(self._positions, floor)
        while self._tree[node] >= before:
            while node & 1:  # this subtree ends its parent's range: go up
                node >>= 1
            if node == 0:
                return None
            node += 1
        while node < self._leaves:
            node = 2 * node + (self._tree[2 * node] >= before)
        return self._deletes[node - self._leaves]
