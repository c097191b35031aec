"""The shares of owners in an event log that has reached its size.

Such a log removes the oldest entries of the owners that hold the most bytes, until it fits (max-min fairness). These
fall to a level, which is at least an equal share. So an owner within an equal share loses nothing to the size.

The log is trimmed at its beginning, up to its floor, and has no gaps. Entries of owners that are not over the level
move to an archive; those of the others are dropped. So archive and log together have all entries of an owner after the
floor of that owner. A reader of all owners begins at the floor of the log.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic_core import from_json

MAX_OWNERS = 1000
"""Maximum number of owners that are counted. Beyond it, those that hold the least are not."""
AS_ONE = -1
"""Instead of a level: the oldest entries of all owners are removed. Used with more than MAX_OWNERS equal shares."""


class Place(NamedTuple):
    """A number in the log, and the checksum of its entry."""

    number: int
    checksum: int


class Item(NamedTuple):
    """An entry that may have to go."""

    number: int
    owner: str
    size_bytes: int
    is_old: bool
    """Whether its retention is over."""


@dataclass(slots=True)
class Share:
    """The share of an owner."""

    size_bytes: int = 0
    """The size of its entries in archive and log, as far as they were counted."""
    archived_bytes: int = 0
    floor: int = 0
    """The number of its newest dropped entry, if others have older entries in the archive; else 0."""
    checksum: int = 0


class LogCut(NamedTuple):
    """The oldest entries of the log that are removed from it."""

    amount: int
    archived: Sequence[int]
    """The numbers of those that move to the archive."""
    dropped: dict[str, int]
    """The number of the last one that is dropped, by owner."""


@dataclass
class Shares:
    """The shares of all owners in a log, and the extent of its archive."""

    floor: int
    """The floor of the log to which this applies. If the floor has changed since, the archive is invalid."""
    start: int
    """The number up to which no owner has entries in the archive."""
    start_checksum: int
    counted_to: int
    """The number of the last entry that was counted."""
    counted_bytes: int
    """The total size of all entries up to that one, including removed ones."""
    archive_bytes: int = 0
    owners: dict[str, Share] = field(default_factory=dict)

    @classmethod
    def begin(cls, floor: Place, total_bytes: int) -> "Shares":
        """Return the shares in a log without an archive, before anything is counted."""
        return cls(floor.number, floor.number, floor.checksum, floor.number, total_bytes)

    def encode(self) -> str:
        """Return the shares as the bounds of a log store them."""
        owners = {owner: astuple(share) for owner, share in self.owners.items()}
        numbers = self.floor, self.start, self.start_checksum, self.counted_to, self.counted_bytes, self.archive_bytes
        return json.dumps([*numbers, owners], separators=(",", ":"), ensure_ascii=False)

    def floor_of(self, owner: str) -> Place:
        """Return the last entry that was removed, of those before and of this owner."""
        share = self.owners.get(owner)
        if share is not None and share.floor > self.start:
            return Place(share.floor, share.checksum)
        return Place(self.start, self.start_checksum)

    def count(self, number: int, owner: str, total_bytes: int) -> None:
        """Count an entry. `total_bytes` is the size of all entries up to it; entries come in order, without a gap."""
        size_bytes = max(0, total_bytes - self.counted_bytes)
        self.owners.setdefault(owner, Share()).size_bytes += size_bytes
        self.counted_to, self.counted_bytes = number, max(total_bytes, self.counted_bytes)

    def level(self, excess_bytes: int, size_bytes: int) -> int:
        """Return the level to which owners must fall so that the log shrinks by an excess to its size."""
        level = level_of([share.size_bytes for share in self.owners.values()], excess_bytes)
        return level if level >= size_bytes // MAX_OWNERS else AS_ONE

    def raise_start(self, place: Place) -> None:
        """Let the archive begin after a number."""
        if place.number > self.start:
            self.start, self.start_checksum = place

    def settle(self, floor: Place, total_bytes: int) -> None:
        """Set the floor of the log; `total_bytes` is the size of all entries up to it. Forget what has no effect."""
        self.floor = floor.number
        if self.counted_to < floor.number:
            self.counted_to, self.counted_bytes = floor.number, total_bytes
        if self.archive_bytes <= 0:
            self.archive_bytes = 0
            self.raise_start(floor)
        self.fold()

    def fold(self) -> None:
        """Forget owners without a share, and those that hold the least if there are too many."""
        by_weight = sorted(self.owners.items(), key=lambda each: (each[1].floor <= self.start, -each[1].size_bytes))
        for _, share in by_weight[MAX_OWNERS:]:
            self.raise_start(Place(share.floor, share.checksum))
        self.owners = {}
        for owner, share in by_weight[:MAX_OWNERS]:
            if share.floor <= self.start:
                share.floor = share.checksum = 0
            if share.size_bytes or share.floor:
                self.owners[owner] = share


def decode(text: object, floor: int) -> Shares | None:
    """Return the shares that the bounds of a log hold; None if there are none, or they are of another floor."""
    if not isinstance(text, str):
        return None
    try:
        stored: list[Any] = from_json(text)
        shares = Shares(*stored[:-1], {owner: Share(*share) for owner, share in stored[-1].items()})  # type: ignore[call-arg]
    except (ValueError, TypeError, AttributeError, LookupError):
        return None
    return shares if shares.floor == floor else None


def shares_for_reading(text: object, floor: int) -> Shares | None:
    """Do as `decode`, for a reader that changes nothing. The last result is cached, because it may be large."""
    return _cached(text, floor) if isinstance(text, str) else None


_cached = lru_cache(maxsize=2)(decode)


def level_of(sizes: Iterable[int], excess_bytes: int) -> int:
    """Return the highest level to which the largest sizes must fall so that their sum falls by an excess."""
    ordered = [*sorted(sizes, reverse=True), 0]
    total = 0
    for count, (size, following) in enumerate(pairwise(ordered), 1):
        total += size
        level = (total - excess_bytes) // count
        if level >= following:
            return level
    return AS_ONE


class Cut:
    """One step in which a log shrinks. It decides which entries go, and keeps account of that in the shares."""

    def __init__(self, shares: Shares, excess_bytes: int, size_bytes: int) -> None:
        self.shares = shares
        self._excess_bytes = excess_bytes
        self._level = shares.level(excess_bytes, size_bytes) if excess_bytes > 0 else 0

    def of_archive(self, oldest: Sequence[Item]) -> int:
        """Return how many of the oldest entries of the archive are dropped, whoever owns them."""
        if not oldest:
            self._forget_archive()
        count = 0
        for item in oldest:
            is_beyond = self._level == AS_ONE and self._excess_bytes > 0
            if not (item.is_old or is_beyond or item.number <= self.shares.start):
                break
            self._drop_archived(item)
            count += 1
        return count

    def heavy_owners(self) -> list[str]:
        """Return the owners over the level that have entries in the archive, the one with most bytes first."""
        if self._excess_bytes <= 0 or self._level == AS_ONE:
            return []
        owners = self.shares.owners
        heavy = [owner for owner, share in owners.items() if share.archived_bytes > 0 and self._is_over(owner)]
        return sorted(heavy, key=lambda owner: -owners[owner].size_bytes)

    def of_owner(self, oldest: Iterable[Item]) -> int:
        """Return how many of the oldest entries of an owner in the archive are dropped."""
        count = 0
        for item in oldest:
            if self._excess_bytes <= 0 or not self._is_over(item.owner):
                break
            self._drop_archived(item)
            count += 1
        return count

    def of_log(self, oldest: Iterable[Item]) -> LogCut:
        """Return which of the oldest entries of the log leave it."""
        count, archived, dropped = 0, [], {}
        for item in oldest:
            if not item.is_old and self._excess_bytes <= 0:
                break
            if item.is_old or self._is_over(item.owner):
                self._drop(item)
                dropped[item.owner] = item.number
            else:
                self._archive(item)
                archived.append(item.number)
            count += 1
        return LogCut(count, archived, dropped)

    def _is_over(self, owner: str) -> bool:
        share = self.shares.owners.get(owner)
        return (0 if share is None else share.size_bytes) > self._level

    def _archive(self, item: Item) -> None:
        self.shares.archive_bytes += item.size_bytes
        self.shares.owners.setdefault(item.owner, Share()).archived_bytes += item.size_bytes

    def _drop_archived(self, item: Item) -> None:
        share = self.shares.owners.get(item.owner)
        if share is not None:
            if item.number <= share.floor:  # it was dropped before, and not deleted
                return
            share.archived_bytes = max(0, share.archived_bytes - item.size_bytes)
        self._remove(item.owner, item.size_bytes, of_archive=item.size_bytes)

    def _drop(self, item: Item) -> None:
        """Drop an entry of the log, and with it all that its owner has in the archive: a floor has nothing below."""
        share = self.shares.owners.get(item.owner)
        archived_bytes = 0
        if share is not None:
            archived_bytes, share.archived_bytes = share.archived_bytes, 0
        self._remove(item.owner, item.size_bytes + archived_bytes, of_archive=archived_bytes)

    def _remove(self, owner: str, size_bytes: int, of_archive: int) -> None:
        self._excess_bytes -= size_bytes
        self.shares.archive_bytes = max(0, self.shares.archive_bytes - of_archive)
        share = self.shares.owners.get(owner)
        if share is not None:
            share.size_bytes = max(0, share.size_bytes - size_bytes)

    def _forget_archive(self) -> None:
        self.shares.archive_bytes = 0
        for share in self.shares.owners.values():
            share.archived_bytes = 0


def set_floors(shares: Shares, dropped: dict[str, Place]) -> None:
    """Set the floors of owners that have lost entries."""
    for owner, place in dropped.items():
        share = shares.owners.setdefault(owner, Share())
        share.floor, share.checksum = place
