"""The schedule of warnings, expiry and purge."""

import pytest

from guidsvc.domain.events.entry import change_of
from guidsvc.domain.events.schedule import EXPIRED_STAGE, MARGIN_SECONDS, PURGED_STAGE, EventPolicy
from guidsvc.domain.record import Record
from tests.support.factories import record

EXPIRE, PURGE_AT = 1_000_000, 2_000_000
POLICY = EventPolicy(warn_before=(5, 100))


def record_with_lifetime(seconds: int) -> Record:
    """Return a record that was written this many seconds before its expiry."""
    return record((EXPIRE - seconds) * 1000, expire=EXPIRE, purge_at=PURGE_AT)


def kinds(
    policy: EventPolicy, stage: int, before_expiry: int, lifetime: int = 1000, *, due: int | None = None
) -> tuple[list[str], int, int | None]:
    """Return the entries that are appended this many seconds before the expiry, the new stage, and the next due time.

    Both times are in seconds before the expiry, by the clock. Without `due`, this policy has scheduled the record.
    """
    leads = policy.leads(record_with_lifetime(lifetime))
    planned = (leads[stage] if stage < len(leads) else 0) if due is None else due
    planned_due = EXPIRE - planned - (MARGIN_SECONDS if planned else 0)
    step = policy.step(
        record_with_lifetime(lifetime), stage, planned_due, (EXPIRE - before_expiry - MARGIN_SECONDS) * 1000
    )
    return [f"{entry.kind} {entry.lead}" for entry in step.entries], step.stage, step.due


def warned_at(lead: int) -> int:
    """Return the due time of a warning. The margin applies only from the expiry on."""
    return EXPIRE - lead - MARGIN_SECONDS


@pytest.mark.parametrize(
    ("lifetime", "leads"),
    [(1000, (100, 5)), (200, (100, 5)), (199, (5,)), (10, (5,)), (9, ()), (0, ())],
)
def test_lead_applies_up_to_half_of_the_lifetime(lifetime: int, leads: tuple[int, ...]) -> None:
    assert POLICY.leads(record_with_lifetime(lifetime)) == leads


@pytest.mark.parametrize(("lifetime", "leads"), [(60, (20,)), (30, (10,)), (29, ())])
def test_short_lifetime_is_warned_at_a_third(lifetime: int, leads: tuple[int, ...]) -> None:
    assert EventPolicy(warn_before=(3600,)).leads(record_with_lifetime(lifetime)) == leads
    assert EventPolicy(warn_before=()).leads(record_with_lifetime(lifetime)) == ()


def test_warnings_come_one_by_one() -> None:
    assert POLICY.first(record_with_lifetime(1000)) == (0, warned_at(100))
    assert kinds(POLICY, 0, 101) == ([], 0, warned_at(100))
    assert kinds(POLICY, 0, 100) == (["expiring 100"], 1, warned_at(5))
    assert kinds(POLICY, 1, 6) == ([], 1, warned_at(5))
    assert kinds(POLICY, 1, 5) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 2, 4) == ([], 2, EXPIRE)


def test_late_warnings_are_omitted() -> None:
    assert kinds(POLICY, 0, 4) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 0, 1) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 0, 0) == ([], 2, EXPIRE)  # it has just expired by the clock
    assert kinds(POLICY, 0, -MARGIN_SECONDS) == (["expired 0"], EXPIRED_STAGE, PURGE_AT)


def test_warnings_and_purges_have_their_append_time() -> None:
    """The time is that of the clock, which is ahead of the schedule's time by the margin."""
    (warning,) = POLICY.step(
        record_with_lifetime(1000), 1, warned_at(5), (EXPIRE - 4) * 1000 - MARGIN_SECONDS * 1000 + 7
    ).entries
    assert (warning.at, warning.lead) == ((EXPIRE - 4) * 1000 + 7, 5)
    (last,) = EventPolicy(warn_before=(1,)).step(record_with_lifetime(9), 0, warned_at(1), EXPIRE * 1000 - 1001).entries
    assert last.at == EXPIRE * 1000 - 1
    (purged,) = POLICY.step(record_with_lifetime(1000), EXPIRED_STAGE, PURGE_AT, PURGE_AT * 1000 + 7).entries
    assert purged.at == (PURGE_AT + MARGIN_SECONDS) * 1000 + 7


def test_expiry_and_purge_are_appended_once() -> None:
    after = EXPIRE - PURGE_AT - MARGIN_SECONDS
    assert kinds(POLICY, EXPIRED_STAGE, after + 1) == ([], EXPIRED_STAGE, PURGE_AT)
    assert kinds(POLICY, EXPIRED_STAGE, after) == (["purged 0"], PURGED_STAGE, None)
    assert kinds(POLICY, 0, after) == (["expired 0", "purged 0"], PURGED_STAGE, None)
    assert kinds(POLICY, PURGED_STAGE, after) == ([], PURGED_STAGE, None)


def test_schedule_is_the_same_without_a_log() -> None:
    """So later events are appended once the log is on again."""
    policy = EventPolicy("off", POLICY.warn_before)
    assert policy.first(record_with_lifetime(1000)) == POLICY.first(record_with_lifetime(1000))
    for stage, before in ((0, 100), (1, 5), (2, -MARGIN_SECONDS), (0, EXPIRE - PURGE_AT - MARGIN_SECONDS)):
        assert kinds(policy, stage, before) == ([], *kinds(POLICY, stage, before)[1:])


def test_changes_include_renewals_of_expired_records() -> None:
    old = record_with_lifetime(1000)
    policy = EventPolicy("changes")
    for at, kinds_of_entries in ((EXPIRE - 1, []), (EXPIRE, ["expired", "renewed"])):
        new = old.model_copy(update={"version": at * 1000, "updated": at * 1000, "expire": EXPIRE + 500})
        change = policy.logged(change_of(old, new))
        assert [entry.kind for entry in (*change.owed, *change.entries)] == kinds_of_entries
        assert EventPolicy("off").logged(change_of(old, new)) == ((), ())
        assert EventPolicy().logged(change_of(old, new)) == change_of(old, new)
    assert policy.exclusion("renewed") is None
    assert EventPolicy("off").exclusion("renewed") == "--events off"


def test_changed_leads_cause_no_late_warning() -> None:
    later = EventPolicy(warn_before=(20, 3600))
    assert kinds(later, 0, 10, 60, due=10) == ([], 1, EXPIRE)  # it was scheduled with a lead of 10 s
    assert kinds(later, 0, 10, 60, due=30) == ([], 1, EXPIRE)  # no step was executed at 20 s
    assert kinds(later, 0, 10, 60) == (["expiring 20"], 1, EXPIRE)  # with unchanged leads, it is a late warning


def test_changed_leads_warn_at_their_own_time() -> None:
    assert kinds(POLICY, 0, 500, due=500) == ([], 0, warned_at(100))
    assert kinds(POLICY, 1, 100, due=100) == (["expiring 100"], 1, warned_at(5))
    assert kinds(POLICY, 0, 96, due=300) == (["expiring 100"], 1, warned_at(5))
    assert kinds(POLICY, 3, 50, due=50) == ([], 1, warned_at(5))


def test_lead_is_appended_once_after_a_change_of_leads() -> None:
    earlier, later = EventPolicy(warn_before=(35,)), EventPolicy(warn_before=(35, 15))
    assert kinds(earlier, 0, 35, 75) == (["expiring 35"], 1, EXPIRE)
    assert kinds(later, 1, 34, 75, due=0) == ([], 1, warned_at(15))
    assert kinds(later, 1, 15, 75, due=15) == (["expiring 15"], 2, EXPIRE)
