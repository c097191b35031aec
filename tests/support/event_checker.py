"""Check that an event log has exactly the writes of a history: each once, in order, without a gap."""

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
    for numbered in log:
        if numbered.entry.kind in _WRITES:
            writes[numbered.entry.guid].append(numbered.entry)
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
    for previous, following in pairwise(log):
        if following.number != previous.number + 1:
            yield Violation(Rule.EVENTS, LOG, f"entry {following.number} follows entry {previous.number}", ())


def _repetitions(log: Iterable[Numbered]) -> Iterator[Violation]:
    for name, count in Counter(numbered.entry.id for numbered in log).items():
        if count > 1:
            yield Violation(Rule.EVENTS, name.split("-")[0], f"{name} is in the log {count} times", ())


def _out_of_order(log: Iterable[Numbered]) -> Iterator[Violation]:
    newest: dict[str, int] = {}
    for _, entry, _ in log:
        if entry.version < newest.get(entry.guid, 0):
            why = f"{entry.id} comes after version {newest[entry.guid]}"
            yield Violation(Rule.EVENTS, entry.guid, why, ())
        newest[entry.guid] = entry.version


def _wrong_writes(operations: Iterable[Operation], writes: Mapping[str, Sequence[Entry]]) -> Iterator[Violation]:
    """Yield writes that the log lacks, has with another mark, or has although they were not applied."""
    marks = {
        (entry.guid, entry.user): entry for entries in writes.values() for entry in entries if entry.kind != DELETED
    }
    for operation in operations:
        if not isinstance(operation, Write):
            continue
        entry = marks.get((operation.key, operation.mark))
        if operation.outcome is Outcome.OK and (entry is None or operation.version not in {None, entry.version}):
            yield _lost(operation.key, operation.version, writes, (operation,))
        if operation.outcome is Outcome.NO and entry is not None:
            yield Violation(Rule.EVENTS, operation.key, f"{entry.id} was not applied", (operation,))


def _lost_deletions(operations: Iterable[Operation], writes: Mapping[str, Sequence[Entry]]) -> Iterator[Violation]:
    """Yield deletions whose entry does not follow the version that they deleted."""
    for operation in operations:
        if isinstance(operation, Delete) and operation.outcome is Outcome.OK:
            following = dict(pairwise(entry.version for entry in writes[operation.key]))
            deleted = {entry.version for entry in writes[operation.key] if entry.kind == DELETED}
            if following.get(operation.base) not in deleted:
                yield Violation(
                    Rule.EVENTS, operation.key, f"no deletion follows version {operation.base}", (operation,)
                )


def _has(writes: Mapping[str, Sequence[Entry]], guid: str, version: int) -> bool:
    return any(entry.version == version for entry in writes.get(guid, ()))


def _lost(
    guid: str, version: int | None, writes: Mapping[str, Sequence[Entry]], operations: tuple[Operation, ...]
) -> Violation:
    versions = [entry.version for entry in writes.get(guid, ())]
    return Violation(Rule.EVENTS, guid, f"version {version} is not in the log, which has {versions}", operations)
