"""Cache of the JWK set in a file or at a URL.

The set is read at start, then periodically, and when a token names an unknown key. If a read fails, the last good set
stays in use. The caller supplies the function that fetches a URL; `guidsvc.auth.jwk` parses the keys.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import structlog

from guidsvc.auth.jwk import JwkSet, parse_jwks
from guidsvc.bounded_file import read_file
from guidsvc.errors import StartError
from guidsvc.runtime.background import running_in_background, spawn_detached

MAX_BYTES = 1024 * 1024
"""Maximum size of a key set, in bytes; a larger one is rejected."""
TOLD = 10
"""Maximum number of ignored keys that a message explains."""

Fetch = Callable[[str, int], Awaitable[bytes]]
"""Returns the body at a URL, of at most this many bytes; raises OSError or ValueError if that fails."""

_log = structlog.get_logger(__name__)


class RefreshPolicy(NamedTuple):
    """Intervals of reads, in seconds."""

    every: float = 45.0
    """Between periodic reads. With the time of two reads and of a cached session, changes take effect within 60 s."""
    apart: float = 10.0
    """Minimum time between reads caused by unknown keys."""


@asynccontextmanager
async def open_jwks(
    place: str, fetch: Fetch, *, timer: Callable[[], float], pace: RefreshPolicy
) -> AsyncIterator["JwksCache"]:
    """Open the set in a file or at a URL, and keep it up to date; raise StartError if it holds no usable key."""
    keys = JwksCache(_reader(place, fetch), timer, pace)
    await keys.begin()
    try:
        async with running_in_background(keys.keep):
            yield keys
    finally:
        await keys.aclose()


class JwksCache:
    """The keys of the set that `read` last returned."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], timer: Callable[[], float], pace: RefreshPolicy) -> None:
        self.ring = JwkSet({})
        self._text: bytes | None = None
        self._read, self._timer, self._pace = read, timer, pace
        self._reading: asyncio.Task[None] | None = None
        self._missed = -math.inf  # time of the last read caused by an unknown key
        self._failing = False

    async def begin(self) -> None:
        """Read the set for the first time; raise StartError if that fails or the set holds no usable key."""
        try:
            self._take(await self._read())
        except (OSError, ValueError) as error:
            raise StartError(f"jwt_jwks: {_told(error)}") from error
        if not self.ring.keys:
            raise StartError(
                f"jwt_jwks: contains no usable key: {'; '.join(self.ring.ignored[:TOLD]) or 'it is empty'}"
            )

    async def keep(self) -> None:
        """Read the set periodically, until cancelled."""
        while True:
            await asyncio.sleep(self._pace.every)
            await self._again()

    async def refresh(self) -> None:
        """Read the set because a key is unknown, unless that was just done; concurrent calls share one read."""
        if self._reading is None:
            now = self._timer()
            if now - self._missed < self._pace.apart:
                return
            self._missed = now
        await self._again()

    async def aclose(self) -> None:
        """Cancel the read in progress."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading

    async def _again(self) -> None:
        """Read the set. Concurrent calls share one read; cancelling one of them does not cancel it for the others."""
        if self._reading is None:
            self._reading = spawn_detached(self._reread())
            self._reading.add_done_callback(self._done)
        await asyncio.shield(self._reading)

    def _done(self, _: "asyncio.Task[None]") -> None:
        self._reading = None

    async def _reread(self) -> None:
        try:
            self._take(await self._read())
        except (OSError, ValueError) as error:
            if not self._failing:
                _log.warning("jwks refresh failed, keeping the current keys", error=_told(error))
            self._failing = True
        else:
            self._failing = False

    def _take(self, text: bytes) -> None:
        """Parse and store the text of a set. A well-formed set may be empty: its issuer decides that."""
        if text == self._text:
            return
        if len(text) > MAX_BYTES:
            raise ValueError(f"the set is larger than {MAX_BYTES} bytes")
        is_first, self.ring, self._text = self._text is None, parse_jwks(text), text
        tell = _log.info if self.ring.keys or is_first else _log.warning
        tell("jwks loaded", keys=len(self.ring.keys), ignored=self.ring.ignored[:TOLD])


def _reader(place: str, fetch: Fetch) -> Callable[[], Awaitable[bytes]]:
    """Return the function that reads the set; raise StartError for a URL that cannot be trusted."""
    if "://" not in place:
        return partial(asyncio.to_thread, read_file, place, MAX_BYTES)
    try:
        parts = urlsplit(place)
        trusted = parts.hostname and parts.port != 0 and (parts.scheme == "https" or _is_local(parts))
    except ValueError as error:
        raise StartError(f"jwt_jwks: {error}") from error
    if not trusted:
        raise StartError("jwt_jwks: name a file, an https:// URL or, on this host only, an http:// URL")
    if parts.username is not None:
        raise StartError("jwt_jwks: the URL must not contain a user or a password; the keys are public")
    return partial(fetch, place, MAX_BYTES)


def _is_local(parts: SplitResult) -> bool:
    if parts.scheme != "http":
        return False
    try:
        return parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__)
