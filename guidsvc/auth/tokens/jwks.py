"""Cache of the JWK set in a file or at a URL.

The set is read at start, then periodically, and when a token names an unknown key. If a read fails, the last good set
stays in use. The caller supplies the function that fetches a URL; `guidsvc.auth.tokens.jwk` parses the keys.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import structlog

from guidsvc.auth.tokens.jwk import JwkSet, parse_jwks
from guidsvc.bounded_file import read_file
from guidsvc.connection_urls import redact
from guidsvc.errors import StartError
from guidsvc.runtime.background import cancel_until_done, running_in_background, spawn_detached
from guidsvc.runtime.clock import Clock, ContinuousClock, system_clock
from guidsvc.system_errors import network_fault, plain_reason
from guidsvc.telemetry.outage import Outage
from guidsvc.telemetry.state_metrics import KeySetMetrics

MAX_BYTES = 1024 * 1024
"""Maximum size of a key set, in bytes; a larger one is rejected."""
MAX_EXPLAINED = 10
"""Maximum number of ignored keys that a message explains."""

Fetch = Callable[[str, int], Awaitable[bytes]]
"""Returns the body at a URL, of at most this many bytes; raises OSError or ValueError if that fails."""

_log = structlog.get_logger(__name__)


class RefreshPolicy(NamedTuple):
    """Intervals of reads, in seconds."""

    interval_seconds: float = 45.0
    """Between periodic reads. With the time of two reads and of a cached session, changes take effect within 60 s."""
    cooldown_seconds: float = 10.0
    """Minimum time between reads caused by unknown keys."""
    grace_seconds: float = 5.0
    """How late a periodic read may be. If it is later, the host was suspended, and the next login waits for a read."""


@asynccontextmanager
async def open_jwks(
    location: str,
    fetch: Fetch,
    *,
    timer: ContinuousClock,
    refresh_policy: RefreshPolicy,
    clock: Clock = system_clock,
    meter: KeySetMetrics | None = None,
) -> AsyncIterator["JwksCache"]:
    """Open the set in a file or at a URL, and keep it up to date; raise StartError if it holds no usable key."""
    meter = KeySetMetrics() if meter is None else meter
    keys = JwksCache(location, _reader(location, fetch), timer, refresh_policy, ReadCounter(clock, meter))
    await keys.load()
    try:
        async with running_in_background(keys.refresh_periodically):
            yield keys
    finally:
        await keys.aclose()


def validate_jwks(location: str) -> None:
    """Raise StartError if a file holds no usable key, or if a URL cannot be trusted. A URL is not read."""
    if "://" in location:
        _refuse_untrusted(location)
        return
    try:
        key_set = parse_jwks(read_file(location, MAX_BYTES))
    except (OSError, ValueError) as error:
        remedy = "; name a file that this user can read, or an https:// URL" if isinstance(error, OSError) else ""
        raise StartError(f"jwt_jwks: cannot use {location}: {plain_reason(error)}{remedy}") from error
    _refuse_empty(key_set)


class ReadCounter:
    """The outcomes of reads of the set, for the metrics."""

    def __init__(self, clock: Clock, meter: KeySetMetrics) -> None:
        self._clock = clock
        self._meter = meter
        meter.failures = 0

    def succeeded(self) -> None:
        """Note that the set was read."""
        self._meter.read_at = self._clock() / 1000

    def failed(self) -> None:
        """Count a failure."""
        self._meter.failures = 1 + (self._meter.failures or 0)


class JwksCache:
    """The keys of the set that `read` last returned; `location` names its file or URL in messages."""

    def __init__(
        self,
        location: str,
        read: Callable[[], Awaitable[bytes]],
        timer: ContinuousClock,
        refresh_policy: RefreshPolicy,
        counter: ReadCounter,
    ) -> None:
        self._location = redact(location)
        self.key_set = JwkSet({})
        self._text: bytes | None = None
        self._read, self._timer, self._refresh_policy, self._counter = read, timer, refresh_policy, counter
        self._refresh_task: asyncio.Task[None] | None = None
        self._last_miss = -math.inf  # time of the last read caused by an unknown key
        self._last_read = -math.inf  # end of the last read, failed or not
        self._outage = Outage(_log, "jwks refresh failed, keeping the current keys", "jwks refresh succeeded again")

    async def load(self) -> None:
        """Read the set for the first time; raise StartError if that fails or the set holds no usable key."""
        try:
            self._update(await self._read())
            self._last_read = self._timer()
        except (OSError, ValueError) as error:
            remedy = f"; {_remedy(error)}" if "://" in self._location else ""
            raise StartError(f"jwt_jwks: cannot use {self._location}: {plain_reason(error)}{remedy}") from error
        _refuse_empty(self.key_set)

    async def refresh_periodically(self) -> None:
        """Read the set periodically, until cancelled."""
        while True:
            await asyncio.sleep(self._refresh_policy.interval_seconds)
            await self._refresh_shared()

    async def refresh(self) -> None:
        """Read the set because a key is unknown, unless that was just done; concurrent calls share one read."""
        if self._refresh_task is None:
            now = self._timer()
            if now - self._last_miss < self._refresh_policy.cooldown_seconds:
                return
            self._last_miss = now
        await self._refresh_shared()

    async def refresh_overdue(self) -> None:
        """Read the set if the periodic read is overdue: its timer stood still while the host was suspended."""
        interval_seconds, _, grace_seconds = self._refresh_policy
        if self._timer() - self._last_read >= interval_seconds + grace_seconds:
            await self._refresh_shared()

    async def aclose(self) -> None:
        """Cancel the read in progress."""
        if self._refresh_task is not None:
            await cancel_until_done(self._refresh_task)

    async def _refresh_shared(self) -> None:
        """Read the set. Concurrent calls share one read; cancelling one of them does not cancel it for the others."""
        if self._refresh_task is None:
            self._refresh_task = spawn_detached(self._reread())
            self._refresh_task.add_done_callback(self._on_refresh_done)
        await asyncio.shield(self._refresh_task)

    def _on_refresh_done(self, _: "asyncio.Task[None]") -> None:
        self._refresh_task = None

    async def _reread(self) -> None:
        try:
            self._update(await self._read())
        except (OSError, ValueError) as error:
            self._counter.failed()
            self._outage.begin(error=plain_reason(error), jwks=self._location)
        else:
            self._outage.end()
        finally:
            self._last_read = self._timer()

    def _update(self, text: bytes) -> None:
        """Store the text of a set, and parse it unless it is the same as before."""
        if text != self._text:
            self._replace(text)
        self._counter.succeeded()

    def _replace(self, text: bytes) -> None:
        """Parse and store the text of a set. A well-formed set may be empty: its issuer decides that."""
        if len(text) > MAX_BYTES:
            raise ValueError(f"the set is larger than {MAX_BYTES} bytes")
        is_first, self.key_set, self._text = self._text is None, parse_jwks(text), text
        log = _log.info if self.key_set.keys or is_first else _log.warning
        log("jwks loaded", keys=len(self.key_set.keys), ignored=self.key_set.ignored[:MAX_EXPLAINED])


def _reader(location: str, fetch: Fetch) -> Callable[[], Awaitable[bytes]]:
    """Return the function that reads the set; raise StartError for a URL that cannot be trusted."""
    if "://" not in location:
        return partial(asyncio.to_thread, read_file, location, MAX_BYTES)
    _refuse_untrusted(location)
    return partial(fetch, location, MAX_BYTES)


def _refuse_untrusted(url: str) -> None:
    """Raise StartError if the keys at a URL could be replaced on the way."""
    try:
        parts = urlsplit(url)
        is_trusted = parts.hostname and parts.port != 0 and (parts.scheme == "https" or _is_local(parts))
    except ValueError as error:
        raise StartError(f"jwt_jwks: {error}") from error
    if not is_trusted:
        raise StartError("jwt_jwks: name a file, an https:// URL or, on this host only, an http:// URL")
    if parts.username is not None:
        raise StartError("jwt_jwks: the URL must not contain a user or a password; the keys are public")


def _refuse_empty(key_set: JwkSet) -> None:
    if not key_set.keys:
        ignored = "; ".join(key_set.ignored[:MAX_EXPLAINED])
        raise StartError(f"jwt_jwks: contains no usable key: {ignored or 'it is empty'}; name the keys of the issuer")


def _is_local(parts: SplitResult) -> bool:
    if parts.scheme != "http":
        return False
    try:
        return parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _remedy(error: Exception) -> str:
    """Return the remedy for a URL that cannot be read."""
    fault = network_fault(error)
    is_about_certificate = fault is not None and fault.reason.startswith("its certificate ")
    return fault.remedy if fault is not None and is_about_certificate else "make it reachable, or correct the URL"
