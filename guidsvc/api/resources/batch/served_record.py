"""A record that a result serves. The result is replaced if the record has expired when the results are sent.

A batch of lines sends its results when it has read its last line, perhaps minutes after it executed the first. Until
then, a line that serves a record ends in a mark, which is never sent: expiry, end of retention and line number, after a
control character, which JSON texts do not contain.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from guidsvc.domain.record import Record
from guidsvc.errors import Expired

MARK_BYTES = 64
"""Maximum size of a mark."""
_MARK = re.compile(rb"\x1f[0-9 ]+")
_MARKED_LINE = re.compile(rb'(\{"status":[0-9]+,"guid":"([0-9A-F]{32})"[^\x1f\n]*+)\x1f([0-9]+) ([0-9]+) ([0-9]+)')


class ServedRecord(NamedTuple):
    """What is known of the record of a result: its GUID, its expiry and the end of its retention, in Unix seconds."""

    guid: str
    expire: int
    purge_at: int

    @classmethod
    def of(cls, record: Record) -> "ServedRecord":
        """Return what must be known of a record that is served."""
        return cls(record.guid, record.expire, record.purge_at)

    def error(self) -> Expired:
        """Return the error of a read after the expiry."""
        return Expired(self.guid, expired_at=self.expire, renewable_until=self.purge_at)

    def mark(self, number: int) -> bytes:
        """Return the mark of the result of a line with this number."""
        return b"\x1f%d %d %d" % (self.expire, self.purge_at, number)


def without_marks(lines: bytes) -> bytes:
    """Return whole lines without their marks."""
    return _MARK.sub(b"", lines)


def replace_served(lines: bytes, replace: Callable[[ServedRecord, int], bytes | None]) -> bytes:
    """Return whole lines without marks; those for which `replace` returns a result are replaced by it."""

    def current(match: re.Match[bytes]) -> bytes:
        served = ServedRecord(match[2].decode(), int(match[3]), int(match[4]))
        replacement = replace(served, int(match[5]))
        return match[1] if replacement is None else replacement

    return _MARKED_LINE.sub(current, lines)
