"""Generation of GUIDs, version 4 or 7."""

import itertools
import os
import uuid
from collections.abc import Callable
from hashlib import sha256

GuidGenerator = Callable[[int], str]
"""Generates a GUID for a time in Unix milliseconds."""


def random_generator(make: Callable[[int, bytes], str]) -> GuidGenerator:
    """Return a generator that uses the system's random source."""
    return lambda now: make(now, os.urandom(16))


def seeded(make: Callable[[int, bytes], str], seed: bytes, index: int, at: int) -> GuidGenerator:
    """Return a generator of a reproducible sequence, unpredictable without the seed."""
    numbers = itertools.count()
    return lambda _: make(at, sha256(b"%b/%d/%d" % (seed, index, next(numbers))).digest()[:16])


def guid_v4(now: int, random: bytes) -> str:  # noqa: ARG001  # same signature as guid_v7
    """Make a random GUID from 16 random bytes, as a version 4 UUID (RFC 9562, 5.4)."""
    return uuid.UUID(bytes=random, version=4).hex.upper()


def guid_v7(now: int, random: bytes) -> str:
    """Make a GUID that sorts by creation time, from 16 random bytes, as a version 7 UUID (RFC 9562, 5.7)."""
    timed = bytearray(now.to_bytes(6, "big") + random[6:])
    timed[6] = timed[6] & 0x0F | 0x70
    timed[8] = timed[8] & 0x3F | 0x80
    return timed.hex().upper()
