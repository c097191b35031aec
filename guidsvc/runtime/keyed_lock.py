"""A per-GUID lock. Serializing the writers in this process avoids futile compare-and-swap retries."""

import asyncio
from weakref import WeakValueDictionary

from guidsvc.errors import Contention

WAIT_SECONDS = 10.0
"""How long a write waits for earlier writes of the same GUID, in seconds."""


class KeyedLock:
    """The locks of all GUIDs."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # only locks in use

    def acquire(self, guid: str, seconds: float = WAIT_SECONDS) -> "_Acquisition":
        """Return the lock of a GUID, for use with `async with`. Entering raises Contention after a timeout."""
        is_in_use = guid in self._locks  # a writer holds it, waits for it, or is just being woken
        return _Acquisition(guid, self._locks.setdefault(guid, asyncio.Lock()), seconds if is_in_use else None)


class _Acquisition:
    """One use of a GUID's lock. It waits at most `seconds`; None means that the lock is free."""

    __slots__ = ("_guid", "_lock", "_seconds")

    def __init__(self, guid: str, lock: asyncio.Lock, seconds: float | None) -> None:
        self._guid = guid
        self._lock = lock
        self._seconds = seconds

    async def __aenter__(self) -> None:
        if self._seconds is None:  # the usual case, which needs no timer
            await self._lock.acquire()
            return
        try:
            async with asyncio.timeout(self._seconds):
                await self._lock.acquire()
        except TimeoutError as error:
            raise Contention(f"GUID {self._guid} has too many concurrent writes; retry later") from error

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
