"""The checkers of idempotency keys and of the quota."""

from tests.support.history import Delete, Operation, Outcome, Read, Rule
from tests.support.history_checker import check
from tests.support.once_checker import Attempt, Count, Created, Request, Result, check_once, check_quota

A, B = "A" * 32, "B" * 32
OK_A, OK_B = Result(Outcome.OK, Created(A, 7)), Result(Outcome.OK, Created(B, 8))
UNKNOWN, NO = Result(Outcome.UNKNOWN), Result(Outcome.NO)


def request(*attempts: Result) -> Request:
    """Return a request that creates one record, with one attempt per second."""
    return Request(
        "key", ["mark"], [Attempt(second, second + 0.5, "client", [result]) for second, result in enumerate(attempts)]
    )


def test_request_with_equal_responses_was_executed_once() -> None:
    assert check_once([request(UNKNOWN, OK_A, OK_A)], {"mark": [A]}) == []


def test_two_guids_in_responses_are_detected() -> None:
    (violation,) = check_once([request(OK_A, OK_B)], {})
    assert (violation.rule, violation.key) == (Rule.TWICE, "key")


def test_second_guid_in_the_store_is_detected() -> None:
    assert [each.rule for each in check_once([request(OK_A)], {"mark": [A, B]})] == [Rule.TWICE]
    assert [each.rule for each in check_once([request(UNKNOWN)], {"mark": [A, B]})] == [Rule.TWICE]


def test_each_operation_of_a_batch_is_judged_separately() -> None:
    batch = Request(
        "key", ["one", "two"], [Attempt(0, 1, "client", [OK_A, OK_B]), Attempt(2, 3, "client", [OK_A, OK_A])]
    )
    (violation,) = check_once([batch], {})
    assert "'two'" in violation.why


def test_creation_repeated_after_its_deletion_is_a_violation() -> None:
    repeated = request(OK_A, OK_A)
    history: list[Operation] = [
        *repeated.writes({}),
        Delete(A, 0.6, 0.7, "client", 7, Outcome.OK),
        Read(A, 2.0, 2.1, "client", 7, "mark"),
    ]
    assert [violation.rule for violation in check(history)] == [Rule.STALE]


def test_stored_record_of_rejected_creation_is_a_violation() -> None:
    rejected = request(NO)
    history: list[Operation] = list(rejected.writes({"mark": [A]}))
    assert [violation.rule for violation in check(history, [Read(A, 9, 9, "the store", 7, "mark")])] == [Rule.PHANTOM]


def test_creation_counts_if_any_attempt_reports_it() -> None:
    assert [write.outcome for write in request(NO, UNKNOWN).writes({"mark": [A]})] == [Outcome.UNKNOWN]
    assert [(write.outcome, write.end) for write in request(UNKNOWN, OK_A, OK_A).writes({})] == [(Outcome.OK, 1.5)]
    assert list(request(UNKNOWN).writes({})) == []


def test_one_record_over_quota_is_detected() -> None:
    assert check_quota([Count(1, 99), Count(2, 100)], 100) == []
    (violation,) = check_quota([Count(1, 100), Count(2, 101), Count(3, 102)], 100)
    assert violation.rule is Rule.QUOTA
    assert "101 live records of 100" in violation.why
