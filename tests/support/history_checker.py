"""Whether what clients saw of each GUID keeps the promise of the cache: never stale, never back, nothing lost.

A history is a list of operations, with times of one clock taken before a request is sent and after it is answered.
What was answered "not applied" must never be seen; what was not answered may be seen, or not, at any later time.

Versions of one key only rise, also over deletion and creation, so each state has a place in one line: the write of
version v is at 2v, the deletion of version v at 2v + 1, and at 0 there is nothing yet. A history is good if each
operation is at or beyond what had ended before it began. Who clocks so coarsely that one operation ends at the very
time at which the next begins, has these two pass for simultaneous.

It knows no service and no cache, and does no input or output. It takes O(n log n).
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
    """Return what is wrong. `final` are reads after all has ended, best of the store itself."""
    histories: dict[str, tuple[list[Operation], list[Read]]] = defaultdict(lambda: ([], []))
    for operation in operations:
        histories[operation.key][0].append(operation)
    for read in final:
        histories[read.key][1].append(read)
    return [violation for key in sorted(histories) for violation in _Key(key, *histories[key]).check()]


class _Key:
    """The history of one key, swept in the order in which its operations began."""

    def __init__(self, key: str, operations: list[Operation], final: list[Read]) -> None:
        self._key = key
        self._operations = sorted(operations, key=attrgetter("start"))
        self._final = final
        self._found: list[Violation] = []
        self._names = _Names([each for each in operations if isinstance(each, Write)])
        self._deletes = _Deletes([])
        self._pending: list[tuple[float, int, int, Operation]] = []
        self._acknowledged: tuple[int, Operation | None] = (0, None)
        self._read: tuple[int, Operation | None] = (0, None)

    def check(self) -> list[Violation]:
        """Return what is wrong; once."""
        for fault in self._names.doubled():
            self._break(*fault)
        good = {id(each) for each in (*self._operations, *self._final) if self._is_of_a_write(each)}
        self._deletes = _Deletes(self._possible_deletes(good))
        for fault in self._deletes.doubled():
            self._break(*fault)
        for operation in self._operations:
            self._pass_to(operation.start)
            if not isinstance(operation, Read):
                self._change(operation)
            elif id(operation) in good:
                self._ends(operation, self._place(operation, Rule.STALE, Rule.BACK))
        self._pass_to(inf)
        for read in self._final:
            if id(read) in good:
                self._place(read, Rule.LOSS, Rule.LOSS)
        return self._found

    def _possible_deletes(self, good: set[int]) -> list[Delete]:
        """Return the deletions, less those without an answer that began when their version was seen to be replaced."""
        ends = sorted((each.end, place) for each in self._operations if (place := self._known_place(each, good)))
        highest = list(accumulate((place for _, place in ends), max, initial=0))
        return [
            each
            for each in self._operations
            if isinstance(each, Delete)
            and (each.outcome is not Outcome.UNKNOWN or highest[bisect_left(ends, (each.start,))] <= 2 * each.base)
        ]

    def _known_place(self, operation: Operation, good: set[int]) -> int:
        """Return where an operation is whose answer says so, else 0."""
        if isinstance(operation, Read):
            return 2 * (operation.version or 0) if id(operation) in good else 0
        return (operation.outcome is Outcome.OK and self._position(operation)) or 0

    def _break(self, rule: Rule, why: str, *operations: Operation | None) -> None:
        self._found.append(Violation(rule, self._key, why, tuple(each for each in operations if each is not None)))

    def _is_of_a_write(self, operation: Operation) -> bool:
        """Learn from a read which version its write made; or tell that there is no such write."""
        if not isinstance(operation, Read) or operation.version is None:
            return True
        fault = self._names.learn(operation)
        if fault is not None:
            self._break(*fault)
        return fault is None

    def _pass_to(self, now: float) -> None:
        """Raise the floors by what had ended before now."""
        while self._pending and self._pending[0][0] < now:
            place = heappop(self._pending)[2:]
            if isinstance(place[1], Read):
                self._read = max(self._read, place, key=itemgetter(0))
            else:
                self._acknowledged = max(self._acknowledged, place, key=itemgetter(0))

    def _ends(self, operation: Operation, position: int | None) -> None:
        if position is not None:
            heappush(self._pending, (operation.end, id(operation), position, operation))

    def _place(self, read: Read, stale: Rule, back: Rule) -> int | None:
        """Return where a read is, or, if it is nowhere, tell why."""
        acknowledged, seen = self._acknowledged, self._read
        if self._at(read, acknowledged[0]) is None:
            refused = self._deletes.refused(acknowledged[0], read.end) if read.version is None else None
            if refused is None:
                self._break(stale, "older than what was acknowledged", acknowledged[1], read)
            else:
                self._break(Rule.PHANTOM, "deleted by what was answered as not applied", refused, read)
            return None
        position = self._at(read, max(acknowledged[0], seen[0]))
        if position is None:
            self._break(back, "older than what was read", seen[1], read)
        return position

    def _at(self, read: Read, floor: int) -> int | None:
        """Return the lowest position at or above the floor where a read can have seen what it saw."""
        if read.version is not None:
            return 2 * read.version if 2 * read.version >= floor else None
        if floor == 0:
            return 0
        delete = self._deletes.done(floor, read.end)
        return None if delete is None else 2 * delete.base + 1

    def _change(self, operation: Write | Delete) -> None:
        position = self._position(operation)
        floor, before = max(self._acknowledged, self._read, key=itemgetter(0))
        if position is not None and position <= floor:
            self._break(Rule.VERSION, "not above what was there before", before, operation)
        if operation.outcome is Outcome.OK:
            self._ends(operation, position)

    def _position(self, operation: Write | Delete) -> int | None:
        """Return where a change is; None if it may never have been made."""
        if isinstance(operation, Delete):
            return 2 * operation.base + 1 if operation.outcome is Outcome.OK else None
        version = self._names.version(operation)
        return None if version is None else 2 * version


_Fault = tuple[Rule, str, *tuple[Operation, ...]]


class _Names:
    """Which write made which version: as acknowledged, and as read."""

    def __init__(self, writes: list[Write]) -> None:
        self._writes = {write.mark: write for write in writes}
        if len(self._writes) < len(writes):
            raise ValueError("the marks of writes must be unique")
        self._by_version: dict[int, tuple[str, Operation]] = {}
        self._by_mark: dict[str, tuple[int, Operation]] = {}

    def doubled(self) -> list[_Fault]:
        """Learn what was acknowledged; return the writes that were given the version of another."""
        told = [(write.version, write.mark, write) for write in self._writes.values()]
        faults = [self._note(version, mark, write) for version, mark, write in told if version is not None]
        return [fault for fault in faults if fault is not None]

    def learn(self, read: Read) -> _Fault | None:
        """Learn what a read tells, or return what is wrong with it."""
        assert read.version is not None
        write = self._writes.get(read.mark or "")
        if write is None:
            return Rule.PHANTOM, "nobody wrote this", read
        if write.outcome is Outcome.NO:
            return Rule.PHANTOM, "seen, though answered as not applied", write, read
        if write.start >= read.end:
            return Rule.PHANTOM, "seen before it was written", read, write
        return self._note(read.version, write.mark, read)

    def version(self, write: Write) -> int | None:
        """Return the version that a write made, if that was ever told."""
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
    """Which deletion made which version go."""

    def __init__(self, deletes: list[Delete]) -> None:
        self._done = sorted((each for each in deletes if each.outcome is Outcome.OK), key=attrgetter("start"))
        self.done = _Earliest([each for each in deletes if each.outcome is not Outcome.NO]).first
        self.refused = _Earliest([each for each in deletes if each.outcome is Outcome.NO]).first

    def doubled(self) -> list[_Fault]:
        """Return the deletions that deleted what another deleted as well."""
        first: dict[int, Delete] = {}
        pairs = [(first.setdefault(each.base, each), each) for each in self._done]
        # One that begins after the other's end is told when its turn comes.
        return [(Rule.VERSION, "one version deleted twice", a, b) for a, b in pairs if a is not b and a.end >= b.start]


class _Earliest:
    """Deletions by position, as a tree of the earliest starts: finds the first one that began in time."""

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
        """Return the deletion of the lowest position at or above the floor of those that began before a time."""
        node = self._leaves + bisect_left(self._positions, floor)
        while self._tree[node] >= before:
            while node & 1:  # all to the left of the end of this part is done with
                node >>= 1
            if node == 0:
                return None
            node += 1
        while node < self._leaves:
            node = 2 * node + (self._tree[2 * node] >= before)
        return self._deletes[node - self._leaves]
