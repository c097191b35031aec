"""Turns: those who write one GUID in this process do so one by one, where they would only race each other."""

import asyncio
from weakref import WeakValueDictionary

from guidsvc.errors import StoreUnavailable

TURN_SECONDS = 10.0
"""How long a write waits for those of the same GUID that came before it."""


class KeyedLock:
    """The turns at all GUIDs."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # those that somebody waits for

    def acquire(self, guid: str, seconds: float = TURN_SECONDS) -> "_Turn":
        """Return a turn at a GUID, to be taken with `async with`; StoreUnavailable, if it does not come in time."""
        taken = guid in self._locks  # by somebody who holds it, waits for it, or is just being woken
        return _Turn(guid, self._locks.setdefault(guid, asyncio.Lock()), seconds if taken else None)


class _Turn:
    """A turn at a GUID, which is waited for no longer than so many seconds; or, where None, is there at once."""

    __slots__ = ("_guid", "_lock", "_seconds")

    def __init__(self, guid: str, lock: asyncio.Lock, seconds: float | None) -> None:
        self._guid = guid
        self._lock = lock
        self._seconds = seconds

    async def __aenter__(self) -> None:
        if self._seconds is None:  # as nearly always, and then no alarm need be set
            await self._lock.acquire()
            return
        try:
            async with asyncio.timeout(self._seconds):
                await self._lock.acquire()
        except TimeoutError as error:
            raise StoreUnavailable(f"GUID {self._guid} is being written by too many at once") from error

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
