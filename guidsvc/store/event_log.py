"""The contract of the event log of a store.

The log is a gapless sequence of entries, numbered from 1 in the order in which they became visible. A swap of a record
appends its entries in the same atomic step. When entries are removed, oldest first, the newest one always remains.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from guidsvc.domain.events.cursor import CursorKey, checksum_of
from guidsvc.domain.events.entry import Entry
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.events.shares import Place

SCANNED = 10_000
"""Maximum number of entries that one read looks at. A read for one owner looks at, and counts, only those of the owner:
where it ends must not tell how many others there are.
"""
PAGE_BYTES = 1024 * 1024
"""A page of entries ends early once its texts take this many bytes."""


class Numbered(NamedTuple):
    """An entry, and what the log adds to it."""

    number: int
    entry: Entry
    appended: int
    """The time of its append in Unix milliseconds, by the clock of the store; 0 if it is damaged."""

    @property
    def checksum(self) -> int:
        """The checksum of the entry, by which cursors recognize it."""
        return checksum_of(self.entry.id, self.appended)


class LogBounds(NamedTuple):
    """Where a log begins and ends."""

    key: CursorKey
    """The key of the cursors of the log, generated with the log."""
    floor: int
    """The number of the newest removed entry; 0 if there is none."""
    floor_checksum: int
    """The checksum of that entry; 0 if there is none."""
    newest: int
    """The number of the newest entry; 0 if the log never had one."""
    newest_checksum: int


class LogPage(NamedTuple):
    """Part of a log."""

    entries: Sequence[Numbered]
    looked_to: int
    """Up to which number was looked: all entries that match up to here are in the page.

    It is `newest`, unless an entry follows that was not looked at. If the selection has an owner, that entry is of this
    owner.
    """
    looked_to_checksum: int
    newest: int
    """The number of the newest entry at that time."""


class EventLog(Protocol):
    """The log of a store. Every method may raise Unavailable."""

    poll_seconds: float
    """Interval of calls of `newest` while a reader waits for an entry."""
    step_records: int
    """The limit that suits `advance`. Writes of clients wait while it works, so a step must be short."""

    async def newest(self) -> int:
        """Return the number of the newest entry. This is cheap: a follower asks many times a second."""

    async def bounds(self, owner: str | None = None) -> LogBounds:
        """Return where the log begins and ends.

        For a reader of one owner, `floor` is the last entry that was removed of those before and of this owner: the
        log may hold entries of owners from before its floor for readers of all.
        """

    async def checksum(self, number: int) -> int | None:
        """Return the checksum of an entry, or of the newest removed one; None for any other."""

    async def newest_of(self, owner: str, number: int) -> Place | None:
        """Return the newest entry of an owner up to a number; None if it is so old that it may soon be removed."""

    async def read(
        self, after: int, limit: int, selection: EventSelection, *, queue_name: str | None = None
    ) -> LogPage:
        """Return the first `limit` entries of a selection after a number, in order.

        It looks at no more than SCANNED entries, and ends early at PAGE_BYTES. If the selection has an owner, it looks
        only at entries of that owner. EventsTrimmed if something after `after` was cut off, also while it reads: a page
        never has a hole. Callers take turns by their `queue_name`.
        """

    async def history(self, guid: str, before: int, limit: int) -> Sequence[Numbered]:
        """Return the newest `limit` entries of a stored GUID with numbers below `before`, newest first.

        Damaged entries are left out, and logged once. The others are there, also those before the damage.
        """

    async def advance(self, now: int, limit: int) -> int:
        """Do what has become due by `now`, for at most `limit` records; return for how many.

        `now` is in Unix milliseconds by the caller's clock; a store with a clock of its own uses that. This appends the
        warnings and expiries that are due, and purges the records whose retention has ended. What it appends is
        appended once, however many processes call this.
        """

    async def lag(self, now: int) -> float:
        """Return the seconds for which the oldest due step has been waiting; 0 if none is due."""

    async def trim(self, before: int, size_bytes: int, limit: int) -> int:
        """Cut off at most `limit` entries that were appended before a time, in Unix milliseconds, or beyond a size.

        Return how many; `limit` if there may be more to do. The newest entry, and those that are not complete yet, are
        never cut off. Beyond the size, the oldest entries of the owners that hold the most bytes are removed, and those
        of other owners stay for readers of these owners; see `guidsvc.domain.events.shares`.
        """

    async def size(self) -> tuple[int, int]:
        """Return the size of the log in bytes, and when its oldest entry was appended, in Unix milliseconds.

        Both are 0 if it is empty. The time of an append is by the clock of the store; that of the event may be older.
        """
