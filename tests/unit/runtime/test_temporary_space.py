"""Temporary space is shared: no caller, and no two callers, can take all of it."""

from functools import partial

import pytest

from guidsvc.errors import Overloaded, SpaceUsed
from guidsvc.runtime.fairness.fair_budget import FairBudget
from guidsvc.runtime.temporary_space import BUFFERED_PART, TemporarySpace


def test_one_caller_has_at_most_half_of_the_space() -> None:
    """A caller is an owner or, without access control, a network."""
    space = TemporarySpace(request_bytes=10, total_bytes=40)
    with space.share() as first, space.share() as second, space.share() as third, space.share() as other_share:
        for share in (first, second, third):
            share.caller = "192.0.2.1"
        other_share.caller = "192.0.2.2"
        first.take(10)
        second.take(10)
        with pytest.raises(Overloaded, match="size limit"):
            third.take(1)
        other_share.take(10)
        second.give_back(10)
        third.take(4)
    assert_empty(space._bytes, 40)


def test_callers_that_fill_their_shares_leave_space_to_others() -> None:
    space, taken_bytes = FairBudget(1000), []
    for caller in "abcd":
        taken_bytes.append(0)
        while space.take(1, caller):
            taken_bytes[-1] += 1
    assert taken_bytes == [500, 250, 125, 62]


def test_all_of_the_space_may_be_taken_by_the_service_itself() -> None:
    space = TemporarySpace(request_bytes=10, total_bytes=20)
    with space.share() as first, space.share() as second:
        first.take(10)
        second.take(10)


def test_request_always_gets_its_own_share() -> None:
    with TemporarySpace(request_bytes=10, total_bytes=10).share() as share:
        share.caller = "a"
        share.take(10)


def test_open_files_are_bounded_and_one_caller_has_half() -> None:
    space = TemporarySpace(files=8)
    with space.share() as first, space.share() as second, space.share() as other, space.share() as anyone:
        first.caller = second.caller = "a"
        other.caller = "b"
        for share in (first, second) * 2:
            share.take_file()
        with pytest.raises(Overloaded):
            second.take_file()
        other.take_file()
        other.take_file()
        anyone.take_file()
        anyone.take_file()
        for share in (other, anyone):
            with pytest.raises(Overloaded):
                share.take_file()
        anyone.close()
        with space.share() as next_share:
            next_share.take_file()
    assert_empty(space._files, 8)


def test_only_file_is_for_any_caller() -> None:
    space = TemporarySpace(files=1)
    with space.share() as first, space.share() as other:
        first.caller, other.caller = "a", "b"
        first.take_file()
        with pytest.raises(Overloaded):
            other.take_file()


def test_one_caller_holds_at_most_half_of_the_memory_for_lines() -> None:
    space = TemporarySpace(request_bytes=1000, total_bytes=1000 * BUFFERED_PART)
    with space.share() as first, space.share() as second, space.share() as other:
        first.caller = second.caller = "192.0.2.1"
        other.caller = "192.0.2.2"
        first.hold(300)
        with pytest.raises(Overloaded, match="waiting lines"):
            second.hold(300)
        second.hold(200)
        other.hold(250)
        with pytest.raises(Overloaded, match="waiting lines"):
            other.hold(251)
    assert_empty(space._buffered_bytes, 1000)


def assert_empty(budget: FairBudget, total: int) -> None:
    assert (budget._free, budget._taken) == (total, {})


def test_request_that_has_ended_takes_nothing_more() -> None:
    """An operation may still run when its client has disconnected, and nobody would return what it takes."""
    space = TemporarySpace(request_bytes=10, total_bytes=40, files=4)
    with space.share() as share:
        share.take_file()
        share.hold(5)
        share.take(10)
    for take in (share.take_file, partial(share.hold, 1)):
        with pytest.raises(Overloaded, match="the request has ended"):
            take()
    with pytest.raises(SpaceUsed):
        share.take(1)
    assert_empty(space._bytes, 40)
    assert_empty(space._files, 4)
    assert_empty(space._buffered_bytes, 40 // BUFFERED_PART)
