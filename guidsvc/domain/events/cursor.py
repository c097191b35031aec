"""Cursors: places in the event log, which clients keep and hand back.

A place names the log by its epoch, the last entry that its client has seen by number, and a checksum of that entry's
id and of the time at which it was appended. So a log that was restored from a backup recognizes the cursors of entries
that it does not have. The id alone would not do: such a log may append the same event again, with the same number,
after others.

The number would tell a client how much happens to GUIDs that it may not see, and the checksum would tell something of
their ids. So both are encrypted with a secret of the log. The epoch is not: it is the same in all cursors of a log, and
shows that a cursor belongs to another one, whose secret nobody has here.
"""

import hashlib
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from dataclasses import dataclass, field
from secrets import randbelow, token_bytes
from typing import NamedTuple

_FORM = 2
_LAYOUT = struct.Struct(">BI10s")
_PLACE = struct.Struct(">QH")
_HALF_BYTES = _PLACE.size // 2
_ROUNDS = 6
"""With this number of rounds, a Feistel network on halves of 40 bits is secure up to about 2**40 cursors."""
CHARACTERS = 20
EPOCHS = 2**32
"""Epochs are numbers below this."""
SECRET_BYTES = 32
_NUMBERS = 2**48
"""A forged cursor decrypts to a number at random: nearly all are beyond this, and no log gets there."""


@dataclass(frozen=True)
class CursorKey:
    """The key of the cursors of a log. Both parts are random, and generated with the log."""

    epoch: int
    """A number below EPOCHS, which each cursor shows."""
    secret: bytes = field(repr=False)
    """SECRET_BYTES with which the rest of each cursor is encrypted. No client ever sees it."""


def draw_key() -> CursorKey:
    """Return the key of a new log."""
    return CursorKey(randbelow(EPOCHS), token_bytes(SECRET_BYTES))


class Cursor(NamedTuple):
    """A position in a log: after the entry with this number. Number 0, with checksum 0, is before the first entry."""

    key: CursorKey
    number: int
    checksum: int

    def encode(self) -> str:
        """Return the cursor as clients see it: 20 characters of base64url. A position always has the same cursor."""
        left, right = _halves(_PLACE.pack(self.number, self.checksum))
        for step in range(_ROUNDS):
            left, right = right, _mix(self.key.secret, step, right, left)
        return urlsafe_b64encode(_LAYOUT.pack(_FORM, self.key.epoch, left + right)).decode()


class SealedCursor(NamedTuple):
    """A cursor from a client, before it is known whether this log made it."""

    epoch: int
    sealed: bytes

    def unseal(self, key: CursorKey) -> Cursor | None:
        """Return the position, if the cursor was made with this key; None if it was forged."""
        left, right = _halves(self.sealed)
        for step in reversed(range(_ROUNDS)):
            left, right = _mix(key.secret, step, left, right), left
        number, checksum = _PLACE.unpack(left + right)
        return Cursor(key, number, checksum) if number < _NUMBERS else None


def checksum_of(event_id: str, appended: int) -> int:
    """Return the checksum of an entry: the first two bytes of the SHA-256 of its event's id and the time of its append.

    `appended` is in Unix milliseconds by the clock of the store. An event that is appended again comes later.
    """
    return int.from_bytes(hashlib.sha256(f"{event_id} {appended:d}".encode()).digest()[:2])


def decode(text: str) -> SealedCursor | None:
    """Return the cursor in a text from a client; None if it has not the form of one."""
    try:
        data = urlsafe_b64decode(text)
        form, epoch, sealed = _LAYOUT.unpack(data)
    except (Error, ValueError, struct.error):
        return None
    is_canonical = urlsafe_b64encode(data).decode() == text
    return SealedCursor(epoch, sealed) if form == _FORM and is_canonical else None


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[:_HALF_BYTES], data[_HALF_BYTES:]


def _mix(secret: bytes, step: int, half: bytes, other: bytes) -> bytes:
    """Return `other`, changed by what this step of the Feistel network makes of a half."""
    mask = hmac.digest(secret, b"%c%b" % (step, half), "sha256")[:_HALF_BYTES]
    return (int.from_bytes(mask) ^ int.from_bytes(other)).to_bytes(_HALF_BYTES)
