"""The schedule of warnings, expiry and purge."""

import pytest

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

    Without `due`, in seconds before the expiry, the record was scheduled by this policy.
    """
    leads = policy.leads(living(life))
    planned = (leads[stage] if stage < len(leads) else 0) if due is None else due
    step = policy.step(living(life), stage, EXPIRE - planned, (EXPIRE - before_expiry) * 1000)
    return [f"{entry.kind} {entry.lead}" for entry in step.entries], step.stage, step.due


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
    assert POLICY.first(living(1000)) == (0, EXPIRE - 100)
    assert kinds(POLICY, 0, 101) == ([], 0, EXPIRE - 100)
    assert kinds(POLICY, 0, 100) == (["expiring 100"], 1, EXPIRE - 5)
    assert kinds(POLICY, 1, 5) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 2, 4) == ([], 2, EXPIRE)


def test_late_warnings_are_left_out() -> None:
    assert kinds(POLICY, 0, 4) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 0, MARGIN_SECONDS + 1) == (["expiring 5"], 2, EXPIRE)
    assert kinds(POLICY, 0, MARGIN_SECONDS) == ([], 2, EXPIRE)  # by the clock, it has just expired
    assert kinds(POLICY, 0, 0) == (["expired 0"], EXPIRED_STAGE, PURGE_AT)


def test_expiry_and_purge_are_appended_once() -> None:
    after = EXPIRE - PURGE_AT
    assert kinds(POLICY, EXPIRED_STAGE, after + 1) == ([], EXPIRED_STAGE, PURGE_AT)
    assert kinds(POLICY, EXPIRED_STAGE, after) == (["purged 0"], PURGED_STAGE, None)
    assert kinds(POLICY, 0, after) == (["expired 0", "purged 0"], PURGED_STAGE, None)
    assert kinds(POLICY, PURGED_STAGE, after) == ([], PURGED_STAGE, None)


def test_nothing_is_appended_without_a_log() -> None:
    policy = EventPolicy("off")
    assert policy.first(living(1000)) == (EXPIRED_STAGE, PURGE_AT)
    assert kinds(policy, EXPIRED_STAGE, EXPIRE - PURGE_AT) == ([], PURGED_STAGE, None)


def test_other_leads_make_no_late_warning() -> None:
    later = EventPolicy(warn_before=(20, 3600))
    assert kinds(later, 0, 10, 60, due=10) == ([], 1, EXPIRE)  # it was scheduled for 10s
    assert kinds(later, 0, 10, 60, due=30) == ([], 1, EXPIRE)  # nothing looked at it at 20s
    assert kinds(later, 0, 10, 60) == (["expiring 20"], 1, EXPIRE)  # with the same leads, it is late after a pause


def test_other_leads_warn_at_their_own_time() -> None:
    assert kinds(POLICY, 0, 500, due=500) == ([], 0, EXPIRE - 100)
    assert kinds(POLICY, 1, 100, due=100) == (["expiring 100"], 1, EXPIRE - 5)
    assert kinds(POLICY, 0, 96, due=300) == (["expiring 100"], 1, EXPIRE - 5)
    assert kinds(POLICY, 3, 50, due=50) == ([], 1, EXPIRE - 5)


def test_lead_is_appended_once_after_a_change_of_leads() -> None:
    earlier, later = EventPolicy(warn_before=(35,)), EventPolicy(warn_before=(35, 15))
    assert kinds(earlier, 0, 35, 75) == (["expiring 35"], 1, EXPIRE)
    assert kinds(later, 1, 34, 75, due=0) == ([], 1, EXPIRE - 15)
    assert kinds(later, 1, 15, 75, due=15) == (["expiring 15"], 2, EXPIRE)
