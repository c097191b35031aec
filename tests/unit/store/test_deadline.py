"""Deadlines of writes, split into a time to begin and a time to run."""

import pytest

from guidsvc.store.mongo.deadline import StoreClock
from tests.support.timer import Timer


@pytest.fixture
def timer() -> Timer:
    return Timer(100.0)


@pytest.fixture
def store_clock(timer: Timer) -> StoreClock:
    """A clock that read 5,000 ms when the timer was at 100 s."""
    clock = StoreClock(timer)
    clock.set(100.0, 5_000)
    return clock


def test_deadline_is_split_between_start_and_execution(store_clock: StoreClock, timer: Timer) -> None:
    assert store_clock.deadline(7_000, 10_000) == (6_000, 1_000)
    timer.now += 1.0
    assert store_clock.deadline(7_000, 10_000) == (6_500, 500)


def test_write_runs_no_longer_than_any_other(store_clock: StoreClock) -> None:
    assert store_clock.deadline(65_000, 2_000) == (63_000, 2_000)


@pytest.mark.parametrize("not_after", [4_000, 5_000, 5_001])
def test_time_left_at_the_deadline_is_zero(store_clock: StoreClock, not_after: int) -> None:
    assert store_clock.deadline(not_after, 2_000) == (not_after, 0)


def test_outdated_reply_does_not_tell_the_time(store_clock: StoreClock, timer: Timer) -> None:
    assert not StoreClock(timer).is_known(10.0)
    assert store_clock.is_known(10.0)
    timer.now += 10.0
    assert not store_clock.is_known(10.0)
