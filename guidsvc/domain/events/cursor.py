"""Cursors: places in the event log, which clients keep and hand back.

A cursor names the log by its epoch, the last entry that its client has seen by number, and a checksum of that entry's
id. So a log that was restored from a backup recognizes the cursors of entries that it does not have.
"""

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from typing import NamedTuple

_FORM = 2
_LAYOUT = struct.Struct(">BIQH")
CHARACTERS = 20
EPOCHS = 2**32
"""Epochs are numbers below this."""


class Cursor(NamedTuple):
    """A place in a log: after the entry with this number. Number 0, with checksum 0, is before the first entry."""

    epoch: int
    number: int
    checksum: int

    def encode(self) -> str:
        """Return the cursor as clients see it: 20 characters of base64url."""
        return urlsafe_b64encode(_LAYOUT.pack(_FORM, *self)).decode()


def checksum_of(event_id: str) -> int:
    """Return the checksum of an event's id: the first two bytes of its SHA-256."""
    return int.from_bytes(hashlib.sha256(event_id.encode()).digest()[:2])


def decode(text: str) -> Cursor | None:
    """Return the cursor in a text from a client; None if it is none."""
    try:
        form, *values = _LAYOUT.unpack(urlsafe_b64decode(text))
    except (Error, ValueError, struct.error):
        return None
    cursor = Cursor(*values)
    return cursor if form == _FORM and cursor.encode() == text else None
