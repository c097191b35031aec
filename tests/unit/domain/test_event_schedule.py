"""The schedule of warnings, expiry and purge."""

import pytest

from guidsvc.domain.events.entry import change_of
from guidsvc.domain.events.schedule import EXPIRED_STAGE, MARGIN_SECONDS, PURGED_STAGE, EventPolicy
from guidsvc.domain.record import Record
from tests.support.factories import record

EXPIRE, PURGE_AT = 1_000_000, 2_000_000
POLICY = EventPolicy(warn_before=(5, 100))


def living(seconds: int) -> Record:
    """Make a record that was written so long before its expiry."""
    return record((EXPIRE - seconds) * 1000, expire=EXPIRE, purge_at=PURGE_AT)


def kinds(
    policy: EventPolicy, stage: int, before_expiry: int, life: int = 1000, *, due: int | None = None
) -> tuple[list[str], int, int | None]:
    """Return what is appended so many seconds before the expiry, with the new stage and the next due time.

    The seconds are by the clock. Without `due`, in seconds before the expiry, the record was scheduled by this policy.
    """
    leads = policy.leads(living(life))
    planned = (leads[stage] if stage < len(leads) else 0) if due is None else due
    planned_due = EXPIRE - planned - (MARGIN_SECONDS if planned else 0)
    step = policy.step(living(life), stage, planned_due, (EXPIRE - before_expiry - MARGIN_SECONDS) * 1000)
    return [f"{entry.kind} {entry.lead}" for entry in step.entries], step.stage, step.due


def warned_at(lead: int) -> int:
    """Return the due time of a warning: the margin is for what comes after the expiry."""
    return EXPIRE - lead - MARGIN_SECONDS


@pytest.mark.parametrize(
    ("life", "leads"),
    [(1000, (100, 5)), (200, (100, 5)), (199, (5,)), (10, (5,)), (9, ()), (0, ())],
)
def test_lead_counts_if_it_is_half_of_the_life(life: int, leads: tuple[int, ...]) -> None:
    assert POLICY.leads(living(life)) == leads


@pytest.mark.parametrize(("life", "leads"), [(60, (20,)), (30, (10,)), (29, ())])
def test_life_without_lead_is_warned_at_a_third(life: int, leads: tuple[int, ...]) -> None:
    assert EventPolicy(warn_before=(3600,)).leads(living(life)) == leads
    assert EventPolicy(warn_before=()).leads(living(life)) == ()


def test_warnings_come_one_by_one() -> None:
    assert POLICY.first(living(1000)) == (0, warned_at(100))
    assert kinds(POLICY, 0, 101) == ([], 0, warned_at(100))
    assert kinds(POLICY, 0, 100) == (["expiring 100"], 1, warned_at(5))
    assert kinds(POLICY, 1, 6) == ([], 1, warned_at(5))
    assert kinds(POLICY, 1, 5) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 2, 4) == ([], 2, EXPIRE)


def test_late_warnings_are_left_out() -> None:
    assert kinds(POLICY, 0, 4) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 0, 1) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 0, 0) == ([], 2, EXPIRE)  # by the clock, it has just expired
    assert kinds(POLICY, 0, -MARGIN_SECONDS) == (["expired 0"], EXPIRED_STAGE, PURGE_AT)


def test_warnings_and_purges_say_when_they_were_appended() -> None:
    """By the clock, which is ahead of the time of the schedule by the margin."""
    (warning,) = POLICY.step(living(1000), 1, warned_at(5), (EXPIRE - 4) * 1000 - MARGIN_SECONDS * 1000 + 7).entries
    assert (warning.at, warning.lead) == ((EXPIRE - 4) * 1000 + 7, 5)
    (last,) = EventPolicy(warn_before=(1,)).step(living(9), 0, warned_at(1), EXPIRE * 1000 - 1001).entries
    assert last.at == EXPIRE * 1000 - 1
    (purged,) = POLICY.step(living(1000), EXPIRED_STAGE, PURGE_AT, PURGE_AT * 1000 + 7).entries
    assert purged.at == (PURGE_AT + MARGIN_SECONDS) * 1000 + 7


def test_expiry_and_purge_are_appended_once() -> None:
    after = EXPIRE - PURGE_AT - MARGIN_SECONDS
    assert kinds(POLICY, EXPIRED_STAGE, after + 1) == ([], EXPIRED_STAGE, PURGE_AT)
    assert kinds(POLICY, EXPIRED_STAGE, after) == (["purged 0"], PURGED_STAGE, None)
    assert kinds(POLICY, 0, after) == (["expired 0", "purged 0"], PURGED_STAGE, None)
    assert kinds(POLICY, PURGED_STAGE, after) == ([], PURGED_STAGE, None)


def test_schedule_is_the_same_without_a_log() -> None:
    """So that what comes after the log is on again is appended."""
    policy = EventPolicy("off", POLICY.warn_before)
    assert policy.first(living(1000)) == POLICY.first(living(1000))
    for stage, before in ((0, 100), (1, 5), (2, -MARGIN_SECONDS), (0, EXPIRE - PURGE_AT - MARGIN_SECONDS)):
        assert kinds(policy, stage, before) == ([], *kinds(POLICY, stage, before)[1:])


def test_changes_hold_the_renewal_of_what_had_expired() -> None:
    old = living(1000)
    policy = EventPolicy("changes")
    for at, kinds_of_entries in ((EXPIRE - 1, []), (EXPIRE, ["expired", "renewed"])):
        new = old.model_copy(update={"version": at * 1000, "updated": at * 1000, "expire": EXPIRE + 500})
        change = policy.logged(change_of(old, new))
        assert [entry.kind for entry in (*change.owed, *change.entries)] == kinds_of_entries
        assert EventPolicy("off").logged(change_of(old, new)) == ((), ())
        assert EventPolicy().logged(change_of(old, new)) == change_of(old, new)
    assert policy.exclusion("renewed") is None
    assert EventPolicy("off").exclusion("renewed") == "--events off"


def test_other_leads_make_no_late_warning() -> None:
    later = EventPolicy(warn_before=(20, 3600))
    assert kinds(later, 0, 10, 60, due=10) == ([], 1, EXPIRE)  # it was scheduled for 10s
    assert kinds(later, 0, 10, 60, due=30) == ([], 1, EXPIRE)  # nothing looked at it at 20s
    assert kinds(later, 0, 10, 60) == (["expiring 20"], 1, EXPIRE)  # with the same leads, it is late after a pause


def test_other_leads_warn_at_their_own_time() -> None:
    assert kinds(POLICY, 0, 500, due=500) == ([], 0, warned_at(100))
    assert kinds(POLICY, 1, 100, due=100) == (["expiring 100"], 1, warned_at(5))
    assert kinds(POLICY, 0, 96, due=300) == (["expiring 100"], 1, warned_at(5))
    assert kinds(POLICY, 3, 50, due=50) == ([], 1, warned_at(5))


def test_lead_is_appended_once_after_a_change_of_leads() -> None:
    earlier, later = EventPolicy(warn_before=(35,)), EventPolicy(warn_before=(35, 15))
    assert kinds(earlier, 0, 35, 75) == (["expiring 35"], 1, EXPIRE)
    assert kinds(later, 1, 34, 75, due=0) == ([], 1, warned_at(15))
    assert kinds(later, 1, 15, 75, due=15) == (["expiring 15"], 2, EXPIRE)
