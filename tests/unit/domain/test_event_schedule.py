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


def kinds(policy: EventPolicy, stage: int, before_expiry: int, life: int = 1000) -> tuple[list[str], int, int | None]:
    """Return what is appended so many seconds before the expiry, with the new stage and the next due time."""
    step = policy.step(living(life), stage, (EXPIRE - before_expiry) * 1000)
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
