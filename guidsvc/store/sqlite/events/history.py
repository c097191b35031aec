"""The history of one GUID: back along the chain of its entries, and over damage.

A damaged entry is left out. If its link is lost too, the entry before it is searched among all entries below. What was
left out, or not found, is part of the result: a history that lacks something must not look complete.
"""

import sqlite3
from typing import Any, NamedTuple

from guidsvc.errors import CorruptRecord
from guidsvc.store.event_log import SCANNED, Numbered
from guidsvc.store.sqlite.events.entries import NAMES, numbered, row_at
from guidsvc.store.sqlite.events.reading import bounds_of, snapshot

_LINK = "SELECT prev, guid FROM log WHERE seq = ?"
_ENTRY = f"SELECT prev, seq, appended, {NAMES} FROM log WHERE seq = ?"  # noqa: S608  # nosec B608  # our own names
_LAST = "SELECT last FROM records WHERE guid = ?"


class History(NamedTuple):
    """Entries of a GUID, newest first."""

    entries: list[Numbered]
    damaged: list[int]
    """The numbers of damaged entries that are of this GUID, or may be, and where a search for the next one gave up."""


def read_history(connection: sqlite3.Connection, guid: str, before: int, limit: int) -> History:
    """Return the newest entries of a stored GUID before a number. It reads at most SCANNED entries."""
    with snapshot(connection):
        chain = _Chain(connection, guid)
        found: list[Numbered] = []
        number = chain.begin(before)
        while number is not None and len(found) < limit:
            number, entry = chain.step(number)
            if entry is not None and entry.number < before:
                found.append(entry)
        return History(found, chain.damaged)


class _Chain:
    """The chain of the entries of a GUID, from the newest to the oldest."""

    def __init__(self, connection: sqlite3.Connection, guid: str) -> None:
        self._connection = connection
        self._guid = guid
        bounds = bounds_of(connection)
        self._floor, self._newest = bounds.floor, bounds.newest
        self._left = SCANNED
        self.damaged: list[int] = []

    def begin(self, before: int) -> int | None:
        """Return where to begin: before the entry `before`, if that is of this GUID; else at its newest entry."""
        link = self._read(_LINK, before)
        if link is not None and link[1] == self._guid:
            return self._before(before, link[0])
        found = self._connection.execute(_LAST, (self._guid,)).fetchone()
        return None if found is None else self._before(self._newest + 1, found[0])

    def step(self, number: int) -> tuple[int | None, Numbered | None]:
        """Return the number of the entry before one, and that entry itself; None for what is damaged or not there."""
        if number <= self._floor:
            return None, None
        row = self._read(_ENTRY, number)
        if row is None:
            self.damaged.append(number)
            return self._search(number), None
        prev, *values = row
        try:
            entry = numbered(tuple(values))
        except CorruptRecord:
            self.damaged.append(number)
            return self._before(number, prev), None
        if entry.entry.guid != self._guid:  # the chain ends at the floor of the log, or at the creation
            return None, None
        return self._before(number, prev), entry

    def _before(self, number: int, prev: object) -> int | None:
        """Return the number in a link; if that is damaged, the one that it should have."""
        if prev is None or (isinstance(prev, int) and 0 < prev < number):
            return prev if self._left > 0 else None
        return self._search(number)

    def _search(self, number: int) -> int | None:
        """Return the number of the next older entry of the GUID, among those that can be read."""
        while (number := number - 1) > self._floor:
            link = self._read(_LINK, number)
            if link is None or self._left <= 0:
                self.damaged.append(number)
            if self._left <= 0:
                return None
            if link is not None and link[1] == self._guid:
                return number
        return None

    def _read(self, select: str, number: int) -> tuple[Any, ...] | None:
        """Return the row of an entry; None if it is damaged or missing."""
        self._left -= 1
        try:
            return row_at(self._connection, select, number)
        except CorruptRecord:
            return None
