"""A record that a result serves. The result is replaced if the read would fail when the results are sent.

A batch of lines sends its results when it has read its last line, perhaps minutes after it executed the first. Until
then, a line that serves a record ends in a mark, which is never sent: expiry, end of retention, demanded seconds and
line number, after a control character, which JSON texts do not contain.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from guidsvc.domain.leases.errors import ExpiresTooSoon
from guidsvc.domain.record import Record
from guidsvc.errors import Expired

MARK_BYTES = 64
"""Maximum size of a mark."""
_MARK = re.compile(rb"\x1f[0-9 ]+")
_NUMBERS = rb"\x1f([0-9]+) ([0-9]+) ([0-9]+) ([0-9]+)"
_MARKED_LINE = re.compile(rb'^(\{"status":[0-9]+,"guid":"([0-9A-F]{32})"[^\x1f\n]*+)' + _NUMBERS, re.MULTILINE)
"""Only at the beginning of a line: metadata may contain the same text many times, up to a line without a mark."""


class ServedRecord(NamedTuple):
    """The record of a result: its GUID, its expiry and the end of its retention, in Unix seconds."""

    guid: str
    expire: int
    purge_at: int
    valid_for: int
    """Seconds for which the record must stay valid; 0 if the read does not require any."""

    @classmethod
    def of(cls, record: Record, valid_for: int | None) -> "ServedRecord":
        """Return the data of a record that is served."""
        return cls(record.guid, record.expire, record.purge_at, valid_for or 0)

    @property
    def fails_from(self) -> int:
        """The earliest time, in Unix seconds, at which the read may fail."""
        return self.expire - self.valid_for

    def error(self, now: int) -> Expired | ExpiresTooSoon | None:
        """Return the error of the read at this time, in Unix milliseconds, or None if it succeeds."""
        left_ms = self.expire * 1000 - now
        if left_ms <= 0:
            return Expired(self.guid, expired_at=self.expire, renewable_until=self.purge_at)
        if left_ms < self.valid_for * 1000:
            return ExpiresTooSoon(self.guid, expire=self.expire, left=left_ms // 1000, valid_for=self.valid_for)
        return None

    def mark(self, number: int) -> bytes:
        """Return the mark of the result of a line with this number."""
        return b"\x1f%d %d %d %d" % (self.expire, self.purge_at, self.valid_for, number)


def without_marks(lines: bytes) -> bytes:
    """Return whole lines without their marks."""
    return _MARK.sub(b"", lines)


def replace_served(lines: bytes, replace: Callable[[ServedRecord, int], bytes | None]) -> bytes:
    """Return whole lines without marks; those for which `replace` returns a result are replaced by it."""

    def current(match: re.Match[bytes]) -> bytes:
        served = ServedRecord(match[2].decode(), int(match[3]), int(match[4]), int(match[5]))
        replacement = replace(served, int(match[6]))
        return match[1] if replacement is None else replacement

    return _MARKED_LINE.sub(current, lines)
