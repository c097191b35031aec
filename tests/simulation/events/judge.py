"""The properties of the log that must hold under all faults."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from guidsvc.domain.record import Record
from guidsvc.store.event_log import LogPage, Numbered
from guidsvc.store.mongo.documents import model_of
from guidsvc.store.mongo.events.entry_documents import KEY, numbered
from tests.simulation.events.server import EPOCH_MS, Applied
from tests.simulation.world import World

SKEW_MS = 300
"""Maximum error of the clock of a primary."""
LATE_MS = 25_000
"""Time after the last fault within which all due steps must be executed."""
_ORDER = {"created": 0, "updated": 0, "renewed": 0, "deleted": 0, "expiring": 1, "expired": 2, "purged": 3}
Key = tuple[Any, ...]


@dataclass
class Version:
    """A version of a record, and the time of its write."""

    record: Record
    at_ms: int


@dataclass
class Judge:
    """Observes each change that a majority has, and collects violations."""

    world: World
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    log: dict[int, Numbered] = field(default_factory=dict)
    """All entries that were visible at any time."""
    versions: dict[str, list[Version]] = field(default_factory=lambda: defaultdict(list))
    floor: int = 0
    has_room: bool = True
    """Whether the log never reaches its maximum size."""
    kept_ms: int = 0
    """Minimum time for which an entry stays after it was put into an outbox."""
    _keys: set[Key] = field(default_factory=set)
    _outboxes: dict[str, list[str]] = field(default_factory=dict)
    _first_seen_ms: dict[str, int] = field(default_factory=dict)
    """Time at which each entry was first put into an outbox, in Unix milliseconds."""

    def note(self, applied: Applied) -> None:
        """Record and check a change."""
        if applied.collection == "records":
            self._note_record(applied)
        elif applied.collection == "log":
            self._note_entry(applied)
        elif applied.collection == "log_bounds" and applied.document is not None:
            before, self.floor = self.floor, applied.document["floor"]
            self._check_ages(range(before + 1, self.floor + 1))
            if self.log and self.floor >= len(self.log):
                self._report(f"the newest entry, {len(self.log)}, was trimmed")

    def _report(self, what: str) -> None:
        self.violations.append(f"at {self.world.now:.3f}: {what}")

    def _note_record(self, applied: Applied) -> None:
        before = self._outboxes.get(applied.id, [])
        if applied.document is None:
            if before:
                self._report(f"{applied.id} was deleted with {before} in its outbox")
            self._outboxes.pop(applied.id, None)
            return
        outbox = [item["id"] for item in applied.document["g"].get("out", ())]
        for added in outbox:
            if added not in before and added in self._first_seen_ms:
                self._report(f"{added} was put into the outbox again")
            self._first_seen_ms.setdefault(added, applied.at_ms)
        self._outboxes[applied.id] = outbox
        record, versions = model_of(Record, applied.document), self.versions[applied.id]
        if not versions or versions[-1].record.version != record.version:
            versions.append(Version(record, applied.at_ms))
            self.counts["writes"] += 1

    def _check_ages(self, trimmed: range) -> None:
        for number in trimmed if self.has_room else ():
            each = self.log[number].entry.id
            age_ms = self._now_ms() - self._first_seen_ms[each]
            if age_ms < self.kept_ms - SKEW_MS:
                self._report(f"{each} was trimmed after {age_ms} ms")

    def _note_entry(self, applied: Applied) -> None:
        number = applied.id
        if applied.document is None:
            if number > self.floor:
                self._report(f"entry {number} was deleted above the floor {self.floor}")
            return
        if number <= self.floor:
            self.counts["void"] += 1
            return
        entry, key = numbered(applied.document), tuple(applied.document[name] for name in KEY)
        if number != len(self.log) + 1:
            self._report(f"entry {number} follows entry {len(self.log)}")
        if key in self._keys:
            self._report(f"{entry.entry.id} is in the log again, as entry {number}")
        self._keys.add(key)
        self.log[number] = entry
        self.counts["entries"] += 1

    def read(self, after: int, entries: list[Numbered]) -> None:
        """Check a page that a reader got."""
        for number, each in enumerate(entries, after + 1):
            if each != self.log.get(number):
                self._report(f"a reader got {each} for entry {number}")
                return
        self.counts["read"] += len(entries)

    def read_of(self, owner: str, after: int, page: LogPage) -> None:
        """Check a page that a reader of one owner got."""
        numbers = range(after + 1, page.looked_to + 1)
        expected = [self.log[number] for number in numbers if self.log[number].entry.owner == owner]
        if list(page.entries) != expected:
            self._report(f"a reader of {owner} got {page} after {after} instead of {expected}")
        self.counts["read"] += len(expected)

    def finish(self) -> None:
        """Check the final state, after the end of all faults."""
        by_guid = defaultdict(list)
        for each in sorted(self.log.values()):
            by_guid[each.entry.guid].append(each.entry)
        for guid, outbox in self._outboxes.items():
            if outbox:
                self._report(f"{outbox} were never appended: {guid}")
        for guid, versions in self.versions.items():
            indexes = {version.record.version: index for index, version in enumerate(versions)}
            order = [(indexes[entry.version], _ORDER[entry.kind]) for entry in by_guid[guid]]
            if order != sorted(order):
                self._report(f"the entries of {guid} are out of order: {order}")
            for version, following in pairwise([*versions, None]):
                assert version is not None
                self._check_version(
                    version, following, [e.kind for e in by_guid[guid] if e.version == version.record.version]
                )

    def _check_version(self, version: Version, following: Version | None, kinds: list[str]) -> None:
        record = version.record
        name = f"version {record.version} of {record.guid}"
        if [_ORDER[kind] for kind in kinds].count(0) != 1:
            self._report(f"{name} has these entries: {kinds}")
        if record.is_deleted:
            return
        for kind, due in ("expired", record.expire), ("purged", record.purge_at):
            self.counts[kind] += kind in kinds
            end_ms = following.record.updated if following else version.at_ms + int(1000 * self.world.now)
            is_required = due * 1000 <= end_ms if following else due * 1000 <= self._now_ms() - LATE_MS
            is_allowed = following is None or due * 1000 <= max(following.at_ms, following.record.updated)
            if kinds.count(kind) > 1 or (is_required and kind not in kinds) or (kind in kinds and not is_allowed):
                self._report(f"{name}, {kind} at {due}, followed by {following}, has {kinds}")

    def _now_ms(self) -> int:
        return EPOCH_MS + int(1000 * self.world.now)
