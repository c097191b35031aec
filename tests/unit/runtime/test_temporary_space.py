"""Temporary space is shared: no owner has all of it."""

import pytest

from guidsvc.errors import Overloaded
from guidsvc.runtime.temporary_space import BUFFERED_PART, TemporarySpace


def test_one_owner_has_at_most_half_of_the_space() -> None:
    space = TemporarySpace(request_bytes=10, total_bytes=40)
    with space.share() as first, space.share() as second, space.share() as third, space.share() as other:
        for share in (first, second, third):
            share.owner = "a"
        other.owner = "b"
        first.take(10)
        second.take(10)
        with pytest.raises(Overloaded, match="this owner"):
            third.take(1)
        other.take(10)
        second.give_back(4)
        third.take(4)
    assert space._used_by_owner == {}


def test_all_callers_share_the_space_without_access_control() -> None:
    space = TemporarySpace(request_bytes=10, total_bytes=20)
    with space.share() as first, space.share() as second:
        first.take(10)
        second.take(10)


def test_request_always_gets_its_own_share() -> None:
    with TemporarySpace(request_bytes=10, total_bytes=10).share() as share:
        share.owner = "a"
        share.take(10)


def test_open_files_are_bounded_and_one_owner_has_half() -> None:
    space = TemporarySpace(files=4)
    with space.share() as first, space.share() as second, space.share() as other, space.share() as anyone:
        first.owner = second.owner = "a"
        other.owner = "b"
        first.take_file()
        second.take_file()
        with pytest.raises(Overloaded):
            second.take_file()
        other.take_file()
        anyone.take_file()
        anyone.close()
        other.take_file()
        with pytest.raises(Overloaded):
            anyone.take_file()
    assert space._files == {}


def test_one_caller_holds_at_most_half_of_the_memory_for_lines() -> None:
    """Without access control too, where a caller is an address."""
    space = TemporarySpace(request_bytes=1000, total_bytes=1000 * BUFFERED_PART)
    with space.share() as first, space.share() as second, space.share() as other:
        first.caller = second.caller = "192.0.2.1"
        other.caller = "192.0.2.2"
        first.hold(300)
        with pytest.raises(Overloaded, match="waiting lines"):
            second.hold(300)
        second.hold(200)
        other.hold(500)
    assert space._buffered_bytes.total() == 0
