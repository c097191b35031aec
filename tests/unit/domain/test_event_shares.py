"""Shares of owners in a full event log: the level to which they are trimmed, and their stored form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidsvc.domain.events import shares as shares_module
from guidsvc.domain.events.shares import AS_ONE, Cut, Item, Place, Share, Shares, decode, level_of, set_floors

NO_PLACE = Place(0, 0)


def filled(sizes: dict[str, int]) -> Shares:
    """Return the shares of a log with one entry per owner."""
    shares, total = Shares.begin(NO_PLACE, 0), 0
    for number, (owner, size) in enumerate(sizes.items(), 1):
        total += size
        shares.count(number, owner, total)
    return shares


@pytest.mark.parametrize(
    ("sizes", "excess", "level"),
    [
        ([100], 10, 90),
        ([100, 10], 50, 50),
        ([100, 60], 40, 60),
        ([100, 60], 60, 50),
        ([100, 60, 10], 101, 29),
        ([50, 50, 50], 150, 0),
        ([50], 51, AS_ONE),
        ([], 1, AS_ONE),
    ],
)
def test_level_takes_the_excess_from_the_largest(sizes: list[int], excess: int, level: int) -> None:
    assert level_of(sizes, excess) == level


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_level_is_at_least_an_equal_share(sizes: list[int], part: float) -> None:
    excess = max(1, int(sum(sizes) * part))
    level = level_of(sizes, excess)

    assert sum(max(0, size - level) for size in sizes) >= excess
    assert level >= (sum(sizes) - excess) // len(sizes)


def test_shares_are_stored_and_read() -> None:
    shares = filled({"alice": 100, "bob": 5, 'it\'s "x" $1.é': 7})
    shares.archive_bytes = 5
    set_floors(shares, {"alice": Place(1, 17)})

    assert decode(shares.encode(), 0) == shares
    assert shares.floor_of("alice") == (1, 17)
    assert shares.floor_of("bob") == shares.floor_of("nobody") == NO_PLACE


@pytest.mark.parametrize(
    "text", [None, 7, "", "{}", "[]", "[1]", "[0,0,0,0,0,0,7]", '[0,0,0,0,0,0,{"a":1}]', "[" * 9999]
)
def test_invalid_shares_are_none(text: object) -> None:
    assert decode(text, 0) is None


def test_shares_for_another_floor_are_invalid() -> None:
    text = filled({"alice": 100}).encode()
    assert decode(text, 0) is not None
    assert decode(text, 1) is None


def test_number_of_owners_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares_module, "MAX_OWNERS", 3)
    shares = filled({f"owner {number}": 10 * number for number in range(1, 9)})
    shares.archive_bytes = 1
    shares.fold()
    assert sorted(shares.owners) == ["owner 6", "owner 7", "owner 8"]

    set_floors(shares, {f"owner {number}": Place(100 + number, number) for number in range(1, 9)})
    shares.fold()
    assert len(shares.owners) == 3
    lost = [f"owner {number}" for number in range(1, 9) if f"owner {number}" not in shares.owners]
    assert all(shares.floor_of(owner).number >= 100 + int(owner[-1]) for owner in lost), "no gap may be forgotten"


def test_floors_before_the_archive_are_forgotten() -> None:
    """So the log bounds the shares, however many owners there ever were."""
    shares = filled({"alice": 100, "bob": 5})
    shares.archive_bytes = 5
    set_floors(shares, {"alice": Place(7, 1), "carol": Place(3, 1)})
    shares.owners["alice"].size_bytes = 0
    shares.raise_start(Place(5, 2))
    shares.fold()
    assert sorted(shares.owners) == ["alice", "bob"]
    assert shares.floor_of("carol") == (5, 2)
    shares.archive_bytes = 0
    shares.settle(Place(9, 3), 200)
    assert shares.owners == {"bob": Share(5)}
    assert shares.floor_of("alice") == shares.floor_of("bob") == (9, 3)


def test_stored_shares_are_limited_in_size() -> None:
    shares = filled({f"{number:0128d}": 2**40 for number in range(2 * shares_module.MAX_OWNERS)})
    shares.fold()
    assert len(shares.encode()) < 250 * shares_module.MAX_OWNERS


def test_log_of_too_many_owners_is_trimmed_as_one() -> None:
    """With more owners than are counted, the oldest entries are removed."""
    size_bytes = 10_000 * shares_module.MAX_OWNERS
    shares = filled({"alice": 5000, "bob": 5000})
    cut = Cut(shares, excess_bytes=9000, size_bytes=size_bytes)
    found = cut.of_log([Item(1, "carol", 5000, is_old=False), Item(2, "bob", 5000, is_old=False)])

    assert (found.amount, list(found.archived), found.dropped) == (2, [], {"carol": 1, "bob": 2})


def test_old_entry_is_removed_for_every_owner() -> None:
    shares = filled({"alice": 5000, "bob": 50})
    cut = Cut(shares, excess_bytes=0, size_bytes=10**6)
    found = cut.of_log([Item(1, "alice", 5000, is_old=True), Item(2, "bob", 50, is_old=False)])

    assert (found.amount, found.dropped) == (1, {"alice": 1})
    assert json.loads(shares.encode())[-1]["alice"][0] == 0
