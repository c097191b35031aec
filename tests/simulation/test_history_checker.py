"""The history checker finds each kind of violation, and none if some order explains the history."""

from collections.abc import Iterator, Sequence
from math import inf

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.support.example_count import example_count
from tests.support.history import Delete, Operation, Outcome, Read, Rule, Write
from tests.support.history_checker import check

OK, NO, UNKNOWN = Outcome.OK, Outcome.NO, Outcome.UNKNOWN
KEY = "key"


def read(start: float, end: float, version: int | None, mark: str | None = None) -> Read:
    return Read(KEY, start, end, "reader", version, mark or (None if version is None else f"w{version}"))


def write(start: float, end: float, version: int, outcome: Outcome = OK) -> Write:
    return Write(KEY, start, end, "writer", f"w{version}", outcome, version if outcome is OK else None)


def delete(start: float, end: float, base: int, outcome: Outcome = OK) -> Delete:
    return Delete(KEY, start, end, "deleter", base, outcome)


VALID_HISTORIES: dict[str, list[Operation]] = {
    "nothing was written, and nothing is there": [read(0, 1, None)],
    "what is written is read": [write(0, 1, 5), read(2, 3, 5)],
    "a read beside a write sees it": [write(0, 9, 5), read(1, 2, 5), read(3, 4, 5)],
    "a read beside a write does not see it": [write(0, 9, 5), read(1, 2, None)],
    "reads beside each other go back": [write(0, 9, 5), read(1, 5, 5), read(2, 6, None)],
    "what was deleted is gone": [write(0, 1, 5), delete(2, 3, 5), read(4, 5, None)],
    "it is created again": [write(0, 1, 5), delete(2, 3, 5), write(4, 5, 7), read(6, 7, 7)],
    "an unknown write is never seen": [write(0, inf, 5, UNKNOWN), read(2, 3, None)],
    "an unknown write is seen late": [write(0, 1, 5, UNKNOWN), read(2, 3, None), read(4, 5, 5)],
    "an unknown deletion is seen late": [write(0, 1, 5), delete(2, 3, 5, UNKNOWN), read(4, 5, 5), read(6, 7, None)],
    "two unknown deletions, seen beside the first": [
        write(0, 1, 5),
        delete(6, 7, 5, UNKNOWN),
        delete(2, 3, 5, UNKNOWN),
        read(4, 5, None),
    ],
    "an unknown deletion is never seen": [write(0, 1, 5), delete(2, 3, 5, UNKNOWN), write(4, 5, 6), read(6, 7, 6)],
    "a refused write": [write(0, 1, 5), write(2, 3, 6, NO), delete(4, 5, 5, NO), read(6, 7, 5)],
    "a read begins when a write ends": [write(0, 1, 5), read(1, 2, None)],
    "a deletion beside a read, and a creation": [write(0, 1, 5), delete(2, 6, 5), read(3, 4, None), write(7, 8, 9)],
    "keys are apart": [write(0, 1, 5), Read("another", 2, 3, "reader", None)],
}

INVALID_HISTORIES: list[tuple[str, Rule, list[Operation]]] = [
    ("a read misses a write", Rule.STALE, [write(0, 1, 5), read(2, 3, None)]),
    ("a read sees the write before", Rule.STALE, [write(0, 1, 5), write(2, 3, 6), read(4, 5, 5)]),
    ("a read sees what was deleted", Rule.STALE, [write(0, 1, 5), delete(2, 3, 5), read(4, 5, 5)]),
    (
        "it is gone after it was created again",
        Rule.STALE,
        [write(0, 1, 5), delete(2, 3, 5), write(4, 5, 6), read(6, 7, None)],
    ),
    ("a deletion is seen before it began", Rule.STALE, [write(0, 1, 5), read(2, 3, None), delete(4, 5, 5)]),
    ("a read goes back", Rule.BACK, [write(0, 1, 5), write(2, 9, 6), read(3, 4, 6), read(5, 6, 5)]),
    ("a read goes back to nothing", Rule.BACK, [write(0, 9, 5), read(1, 2, 5), read(3, 4, None)]),
    (
        "a read goes back to before a deletion",
        Rule.BACK,
        [write(0, 1, 5), delete(2, 9, 5), read(3, 4, None), read(5, 6, 5)],
    ),
    ("a read goes back from an unknown write", Rule.BACK, [write(0, 1, 5, UNKNOWN), read(2, 3, 5), read(4, 5, None)]),
    (
        "nothing is there by a deletion that began after its version was replaced",
        Rule.STALE,
        [write(0, 7, 1), write(8, 17, 2, UNKNOWN), read(9, 11, 2), read(10, 19, None), delete(14, 15, 1, UNKNOWN)],
    ),
    ("a refused write is seen", Rule.PHANTOM, [write(0, 1, 5, NO), read(2, 3, 5)]),
    ("a refused write is seen beside it", Rule.PHANTOM, [write(0, 9, 5, NO), read(2, 3, 5)]),
    ("a refused deletion is seen", Rule.PHANTOM, [write(0, 1, 5), delete(2, 3, 5, NO), read(4, 5, None)]),
    ("nobody wrote it", Rule.PHANTOM, [write(0, 1, 5), read(2, 3, 6)]),
    ("nobody signed it", Rule.PHANTOM, [Read(KEY, 2, 3, "reader", 6)]),
    ("it is seen before it is written", Rule.PHANTOM, [read(0, 1, 5), write(2, 3, 5)]),
    ("one version of two writes, as read", Rule.VERSION, [write(0, 9, 5), write(0, 9, 6), read(1, 2, 5, "w6")]),
    ("one version of two writes", Rule.VERSION, [write(0, 1, 5), Write(KEY, 0, 9, "writer", "x", OK, 5)]),
    (
        "two versions of one write",
        Rule.VERSION,
        [write(0, 1, 5, UNKNOWN), read(2, 3, 5), read(4, 5, 6, "w5")],
    ),
    ("a version falls", Rule.VERSION, [write(0, 1, 5), write(2, 3, 4)]),
    ("a version falls after a deletion", Rule.VERSION, [write(0, 1, 5), delete(2, 3, 5), write(4, 5, 4)]),
    ("what was replaced is deleted", Rule.VERSION, [write(0, 1, 5), write(2, 3, 6), delete(4, 5, 5)]),
    ("it is deleted twice at once", Rule.VERSION, [write(0, 1, 5), delete(2, 4, 5), delete(3, 5, 5)]),
    ("it is deleted twice", Rule.VERSION, [write(0, 1, 5), delete(2, 3, 5), delete(4, 5, 5)]),
]

LOST_WRITES: list[tuple[str, list[Operation], Read]] = [
    ("a write", [write(0, 1, 5)], read(10, 11, None)),
    ("the last write", [write(0, 1, 5), write(2, 3, 6)], read(10, 11, 5)),
    ("a deletion", [write(0, 1, 5), delete(2, 3, 5)], read(10, 11, 5)),
    ("an unknown write that was read", [write(0, 1, 5, UNKNOWN), read(2, 3, 5)], read(10, 11, None)),
]


@pytest.mark.parametrize("history", VALID_HISTORIES.values(), ids=VALID_HISTORIES.keys())
def test_history_with_a_valid_order_passes(history: list[Operation]) -> None:
    assert check(history) == []


@pytest.mark.parametrize(
    ("history", "rule"), [bad[:0:-1] for bad in INVALID_HISTORIES], ids=[bad[0] for bad in INVALID_HISTORIES]
)
def test_history_without_a_valid_order_breaks_a_rule(history: list[Operation], rule: Rule) -> None:
    assert [violation.rule for violation in check(history)] == [rule]
    assert [violation.rule for violation in check(reversed(history))] == [rule]


@pytest.mark.parametrize(
    ("history", "final"), [lost[1:] for lost in LOST_WRITES], ids=[lost[0] for lost in LOST_WRITES]
)
def test_acknowledged_write_is_in_the_final_state(history: list[Operation], final: Read) -> None:
    assert [violation.rule for violation in check(history, [final])] == [Rule.LOSS]


def test_final_state_may_be_the_last_acknowledged_write() -> None:
    history: list[Operation] = [write(0, 1, 5), delete(2, 3, 5, UNKNOWN), write(4, inf, 6, UNKNOWN)]
    for end in (read(10, 11, 5), read(10, 11, 6), read(10, 11, None)):
        assert check(history, [end]) == []
    assert [violation.rule for violation in check(history, [read(10, 11, 7)])] == [Rule.PHANTOM]


def test_violation_shows_observed_and_expected_values() -> None:
    (violation,) = check([write(0, 1, 5), write(2, 3, 6), read(4, 5, 5)])
    assert str(violation).splitlines() == [
        "stale: key: older than what was acknowledged",
        "  2.000000 to 3.000000  writer: write 'w6': ok, version 6",
        "  4.000000 to 5.000000  reader: read version 5, 'w5'",
    ]


def test_two_writes_with_one_mark_are_rejected() -> None:
    with pytest.raises(ValueError, match="unique"):
        check([write(0, 1, 5), write(2, 3, 5)])


@st.composite
def good_histories(draw: st.DrawFn) -> list[Operation]:
    """The history of a correct store: each operation takes effect at one time between its start and end, or later."""
    count = draw(st.integers(1, 30))
    version, present_version = 0, 0
    history: list[Operation] = []
    for time in range(0, 10 * count, 10):
        start, end = time - draw(st.integers(1, 60)), float(time + draw(st.integers(1, 60)))
        outcome = draw(st.sampled_from(Outcome))
        if outcome is UNKNOWN:  # it takes effect, if at all, at any time after its start
            start, end = start - 30, draw(st.sampled_from([start - 20.0, end, inf]))
        is_applied = outcome is OK or (outcome is UNKNOWN and draw(st.booleans()))
        kind = draw(st.sampled_from("rwd"))
        if kind == "r":
            history.append(read(time - draw(st.integers(1, 60)), time + 5, present_version or None))
        elif kind == "w":
            version += 1
            history.append(write(start, end, version, outcome))
            present_version = version if is_applied else present_version
        elif present_version:
            history.append(delete(start, end, present_version, outcome))
            present_version = 0 if is_applied else present_version
    return [*history, read(10 * count, 10 * count + 1, present_version or None)]


@given(good_histories())
@settings(max_examples=example_count(100), deadline=None)
def test_history_of_a_correct_store_passes(history: list[Operation]) -> None:
    *operations, final = history
    assert check(history) == []
    assert isinstance(final, Read)
    assert check(operations, [final]) == []


VERSIONS = st.integers(1, 3)


@st.composite
def any_histories(draw: st.DrawFn) -> list[Operation]:
    """A few operations, which some order may explain or not."""
    history: list[Operation] = []
    versions = draw(st.lists(VERSIONS, unique=True))
    starts = draw(st.lists(st.floats(0, 9), max_size=4))
    spans = st.floats(0.5, 9)
    known: list[int] = []
    for version in versions:
        start, outcome = draw(st.floats(0, 9)), draw(st.sampled_from(Outcome))
        history.append(write(start, start + draw(spans), version, outcome))
        known += [version] if outcome is OK else []
    for start in starts:
        end, deletes = start + draw(spans), draw(st.booleans())
        if known and deletes:
            history.append(delete(start, end, draw(st.sampled_from(known)), draw(st.sampled_from(Outcome))))
        else:
            history.append(read(start, end, draw(st.none() | VERSIONS)))
    return history


def is_explained(history: Sequence[Operation], state: int = 0, highest: int = 0) -> bool:
    """Return whether some order explains the history, by trying all orders."""
    if all(isinstance(operation, Write | Delete) and operation.outcome is not OK for operation in history):
        return True
    earliest = min(operation.end for operation in history if isinstance(operation, Read) or operation.outcome is OK)
    for index, operation in enumerate(history):
        rest = [*history[:index], *history[index + 1 :]]
        if operation.start <= earliest and any(
            is_explained(rest, *after) for after in states_after(operation, state, highest)
        ):
            return True
    return False


def states_after(operation: Operation, state: int, highest: int) -> Iterator[tuple[int, int]]:
    """Yield the possible states after an operation: the present version, or 0, and the highest version so far."""
    if isinstance(operation, Read):
        if (operation.version or 0) == state:
            yield state, highest
    elif operation.outcome is not NO:
        if isinstance(operation, Delete):
            if operation.base == state:
                yield 0, highest
        elif int(operation.mark[1:]) > highest:
            version = int(operation.mark[1:])
            yield version, version


@pytest.mark.slow
@given(any_histories())
@settings(max_examples=example_count(400), deadline=None)
@example([write(0, 9, 1), write(0, 9, 2), delete(0, 9, 1), read(5, 6, None)])
def test_checker_agrees_with_brute_force(history: list[Operation]) -> None:
    ends = {operation.end for operation in history}
    assume(not ends & {operation.start for operation in history})
    assert (check(history) == []) == is_explained(history)


def test_checker_is_quick() -> None:
    """Many reads observe one deletion, and the checker must find it among many others that had not begun."""
    count = 30_000
    history: list[Operation] = [write(0, 1, 1), delete(2, inf, count + 1, UNKNOWN)]
    history += [delete(20, inf, base, UNKNOWN) for base in range(1, count + 1)]
    history += [read(3 + index / count, 10, None) for index in range(count)]
    assert check(history) == []
