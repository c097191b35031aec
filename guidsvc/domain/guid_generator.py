"""Generation of GUIDs, version 4 or 7."""

import itertools
import os
import uuid
from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

GuidGenerator = Callable[[int], str]
"""Draws a new GUID, for a time in Unix milliseconds."""


class ClaimedDraw(Protocol):
    """A Draw of a request that may be sent again: what it draws may be created while the request's claim holds."""

    def __call__(self, now: int, /) -> str:
        """Draw a GUID: the same each time the request is done."""

    async def not_after(self) -> int:
        """Return until when the claim holds, as `Store.swap` takes it; StoreUnavailable if it is over."""


def random_generator(make: Callable[[int, bytes], str]) -> GuidGenerator:
    """Return what draws GUIDs from the system's random source."""
    return lambda now: make(now, os.urandom(16))


def seeded(make: Callable[[int, bytes], str], seed: bytes, place: int, at: int) -> GuidGenerator:
    """Return what draws GUIDs that are random to whoever does not know the seed, and the same again to who does."""
    numbers = itertools.count()
    return lambda _: make(at, sha256(b"%b/%d/%d" % (seed, place, next(numbers))).digest()[:16])


def guid_v4(now: int, random: bytes) -> str:  # noqa: ARG001  # one shape with guid_v7: whoever draws need not know which
    """Make a random GUID of 16 random bytes, laid out as a version 4 UUID (RFC 9562, 5.4)."""
    return uuid.UUID(bytes=random, version=4).hex.upper()


def guid_v7(now: int, random: bytes) -> str:
    """Make a GUID that sorts by the time of its creation, of 16 random bytes, as a version 7 UUID (RFC 9562, 5.7)."""
    timed = bytearray(now.to_bytes(6, "big") + random[6:])
    timed[6] = timed[6] & 0x0F | 0x70
    timed[8] = timed[8] & 0x3F | 0x80
    return timed.hex().upper()
