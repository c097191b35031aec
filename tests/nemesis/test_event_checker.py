"""The checker of the event log detects each kind of fault."""

from guidsvc.domain.events.entry import Entry, Kind
from guidsvc.store.event_log import Numbered
from tests.support.event_checker import check_events
from tests.support.history import Delete, Operation, Outcome, Write

A, B = "A" * 32, "B" * 32


def entry(number: int, kind: Kind, version: int, mark: str = "", guid: str = A) -> Numbered:
    return Numbered(number, Entry(kind, guid, version, version, "", user=mark or f"write {version}"), 0)


def write(version: int, outcome: Outcome = Outcome.OK) -> Write:
    stored_versions = version if outcome is Outcome.OK else None
    return Write(A, 0, 1, "client", f"write {version}", outcome, stored_versions)


LOG = [
    entry(1, "created", 5),
    entry(2, "updated", 6),
    entry(3, "created", 6, guid=B),
    entry(4, "deleted", 7, "write 6"),
]
HISTORY: list[Operation] = [write(5), write(6), Delete(A, 2, 3, "client", 6, Outcome.OK)]


def reasons(log: list[Numbered], history: list[Operation] = HISTORY, stored: dict[str, int] | None = None) -> list[str]:
    return [each.why for each in check_events(log, history, {A: 7, B: 6} if stored is None else stored)]


def test_log_with_each_write_once_passes() -> None:
    assert reasons(LOG) == []


def test_write_with_unknown_outcome_may_be_in_the_log() -> None:
    assert reasons(LOG, [write(5, Outcome.UNKNOWN), write(9, Outcome.UNKNOWN)]) == []


def test_lost_write_is_detected() -> None:
    assert reasons([LOG[0], *LOG[2:]], [write(6)]) == [
        "entry 3 follows entry 1",
        "version 6 is not in the log, which has [5, 7]",
    ]


def test_lost_version_of_a_stored_record_is_detected() -> None:
    assert reasons(LOG, [], {A: 8}) == ["version 8 is not in the log, which has [5, 6, 7]"]


def test_duplicate_entry_is_detected() -> None:
    assert reasons([*LOG, entry(5, "created", 6, guid=B)]) == [f"{B}-6 is in the log 2 times"]


def test_entries_out_of_order_are_detected() -> None:
    assert reasons([entry(1, "updated", 6), entry(2, "created", 5)], [], {}) == [f"{A}-5 comes after version 6"]


def test_entry_of_a_write_that_was_not_applied_is_detected() -> None:
    assert reasons(LOG, [write(6, Outcome.NO)]) == [f"{A}-6 was not applied"]


def test_lost_deletion_is_detected() -> None:
    assert reasons(LOG[:3], stored={}) == ["no deletion follows version 6"]
