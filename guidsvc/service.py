"""GuidService: what can be done with GUIDs, over a Store and a clock.

The service reads, lets `rules` make the new record, and puts it in with the store's compare-and-swap; a race
that is lost is run again from a fresh read. It does not know whether its store is a database or a cache
around one, and nothing of HTTP.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from weakref import WeakValueDictionary

from guidsvc import rules
from guidsvc.errors import NotFound, StoreUnavailable
from guidsvc.models import Change, Record
from guidsvc.rules import Clock, Draw, Terms
from guidsvc.store import Store

ATTEMPTS = 100
"""How often a write that loses its race is tried again before it is given up as unavailable."""
BACKOFF = 0.001, 0.05
"""Seconds: the longest pause before the second attempt, and before any."""

TURN_SECONDS = 10.0
"""How long a write waits for those of the same GUID that came before it."""


class Written(NamedTuple):
    """What a put made: the record as it now is, and whether it is new."""

    record: Record
    created: bool


class GuidService:
    """Reads and writes records by the rules."""

    def __init__(self, store: Store, *, clock: Clock, draw: Draw, terms: Terms, attempts: int = ATTEMPTS) -> None:
        self._store = store
        self._clock = clock
        self._draw = draw
        self._terms = terms
        self._attempts = attempts
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # those that somebody waits for
        self._deleted_version = 0  # the highest version that was ever deleted here: a new record starts above it

    async def get(self, guid: str) -> Record:
        """Return the live record of a GUID; NotFound or Expired if it has none."""
        record = await self._store.get(guid)
        return rules.require_live(guid, record, self._clock())

    async def put(self, guid: str, change: Change) -> Written:
        """Create the GUID, or merge the change into its record, renewing it where it has expired.

        InvalidRequest if the GUID is unknown and the change lacks what a new one needs.
        """
        async with self._turn(guid):
            for attempt in range(self._attempts):
                await _back_off(attempt)
                old = await self._store.get(guid)
                written = self._written(guid, old, change)
                if written.record is old or await self._store.swap(old, written.record):
                    return written
        raise StoreUnavailable(f"GUID {guid} was changed by others {self._attempts} times in a row")

    async def create(self, change: Change) -> Record:
        """Create a record under a GUID that is drawn now; InvalidRequest if the change lacks what it needs."""
        for _ in range(self._attempts):
            now = self._clock()
            record = rules.created(self._draw(now), change, now, self._terms, after=self._deleted_version)
            if await self._store.swap(None, record):
                return record
        raise StoreUnavailable(f"{self._attempts} GUIDs were drawn, and all are taken already")

    async def delete(self, guid: str) -> None:
        """Delete the record of a GUID, live or expired; NotFound if it has none."""
        async with self._turn(guid):
            for attempt in range(self._attempts):
                await _back_off(attempt)
                old = await self._store.get(guid)
                if old is None or rules.is_gone(old, self._clock()):
                    raise NotFound(guid)
                if await self._store.swap(old, None):
                    self._deleted_version = max(self._deleted_version, old.version)
                    return
        raise StoreUnavailable(f"GUID {guid} was changed by others {self._attempts} times in a row")

    @asynccontextmanager
    async def _turn(self, guid: str, seconds: float = TURN_SECONDS) -> AsyncIterator[None]:
        """Let those who write one GUID in this process do so one by one, where they would only race each other."""
        lock = self._locks.setdefault(guid, asyncio.Lock())
        try:
            async with asyncio.timeout(seconds):
                await lock.acquire()
        except TimeoutError as error:
            raise StoreUnavailable(f"GUID {guid} is being written by too many at once") from error
        try:
            yield
        finally:
            lock.release()

    def _written(self, guid: str, old: Record | None, change: Change) -> Written:
        now = self._clock()
        if old is not None and not rules.is_gone(old, now):
            return Written(rules.updated(old, change, now, self._terms), created=False)
        after = self._deleted_version if old is None else max(old.version, self._deleted_version)
        return Written(rules.created(guid, change, now, self._terms, after=after), created=True)


async def _back_off(attempt: int) -> None:
    """Wait a random while before another attempt, so that those who raced do not race again."""
    if attempt:
        first, most = BACKOFF
        await asyncio.sleep(random.uniform(0, min(first * 2**attempt, most)))  # noqa: S311  # no secret
