"""Whether an event log tells exactly what was done: each write once, in order, without a gap."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from guidsvc.domain.events.entry import CREATED, DELETED, RENEWED, UPDATED, Entry
from guidsvc.store.event_log import Numbered
from tests.support.history import Delete, Operation, Outcome, Rule, Violation, Write

_WRITES = {CREATED, UPDATED, RENEWED, DELETED}
LOG = "the log"


def check_events(log: Sequence[Numbered], history: Iterable[Operation], stored: Mapping[str, int]) -> list[Violation]:
    """Compare a whole log, in the order in which it was read, with a history and the stored version of each GUID."""
    writes: dict[str, list[Entry]] = defaultdict(list)
    for each in log:
        if each.entry.kind in _WRITES:
            writes[each.entry.guid].append(each.entry)
    operations = list(history)
    return [
        *_gaps(log),
        *_repetitions(log),
        *_out_of_order(log),
        *(_lost(guid, version, writes, ()) for guid, version in stored.items() if not _has(writes, guid, version)),
        *_wrong_writes(operations, writes),
        *_lost_deletions(operations, writes),
    ]


def _gaps(log: Sequence[Numbered]) -> Iterator[Violation]:
    for one, following in pairwise(log):
        if following.number != one.number + 1:
            yield Violation(Rule.EVENTS, LOG, f"entry {following.number} follows entry {one.number}", ())


def _repetitions(log: Iterable[Numbered]) -> Iterator[Violation]:
    for name, count in Counter(each.entry.id for each in log).items():
        if count > 1:
            yield Violation(Rule.EVENTS, name.split("-")[0], f"{name} is in the log {count} times", ())


def _out_of_order(log: Iterable[Numbered]) -> Iterator[Violation]:
    newest: dict[str, int] = {}
    for _, entry in log:
        if entry.version < newest.get(entry.guid, 0):
            why = f"{entry.id} comes after version {newest[entry.guid]}"
            yield Violation(Rule.EVENTS, entry.guid, why, ())
        newest[entry.guid] = entry.version


def _wrong_writes(operations: Iterable[Operation], writes: Mapping[str, Sequence[Entry]]) -> Iterator[Violation]:
    """Yield the writes that the log lacks, has with another mark, or has though they were not applied."""
    marks = {
        (entry.guid, entry.user): entry for entries in writes.values() for entry in entries if entry.kind != DELETED
    }
    for each in operations:
        if not isinstance(each, Write):
            continue
        entry = marks.get((each.key, each.mark))
        if each.outcome is Outcome.OK and (entry is None or each.version not in {None, entry.version}):
            yield _lost(each.key, each.version, writes, (each,))
        if each.outcome is Outcome.NO and entry is not None:
            yield Violation(Rule.EVENTS, each.key, f"{entry.id} was not applied", (each,))


def _lost_deletions(operations: Iterable[Operation], writes: Mapping[str, Sequence[Entry]]) -> Iterator[Violation]:
    """Yield the deletions that do not follow the version that they deleted."""
    for each in operations:
        if isinstance(each, Delete) and each.outcome is Outcome.OK:
            following = dict(pairwise(entry.version for entry in writes[each.key]))
            deleted = {entry.version for entry in writes[each.key] if entry.kind == DELETED}
            if following.get(each.base) not in deleted:
                yield Violation(Rule.EVENTS, each.key, f"no deletion follows version {each.base}", (each,))


def _has(writes: Mapping[str, Sequence[Entry]], guid: str, version: int) -> bool:
    return any(entry.version == version for entry in writes.get(guid, ()))


def _lost(
    guid: str, version: int | None, writes: Mapping[str, Sequence[Entry]], operations: tuple[Operation, ...]
) -> Violation:
    versions = [entry.version for entry in writes.get(guid, ())]
    return Violation(Rule.EVENTS, guid, f"version {version} is not in the log, which has {versions}", operations)
