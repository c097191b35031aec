"""A per-GUID lock. Serializing the writers in this process avoids futile compare-and-swap retries."""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from guidsvc.errors import Contention

WAIT_SECONDS = 10.0
"""How long a write waits for earlier writes of the same GUID, in seconds."""


class KeyedLock:
    """The locks of all GUIDs."""

    def __init__(self) -> None:
        self._locks: dict[str, _SharedLock] = {}  # only locks in use

    def is_held(self, guid: str) -> bool:
        """Whether a writer holds the lock of a GUID, or waits for it."""
        return guid in self._locks

    def acquire(self, guid: str, seconds: float = WAIT_SECONDS) -> "_Acquisition":
        """Return the lock of a GUID, for use with `async with`. Entering raises Contention after a timeout."""
        return _Acquisition(self._locks, guid, seconds)

    @contextmanager
    def acquire_free(self, guids: Iterable[str]) -> Iterator[Collection[str]]:
        """Hold the locks of those GUIDs that nobody uses, in the block, and yield these GUIDs."""
        acquired: dict[str, _Acquisition] = {}
        for guid in guids:
            if guid not in self._locks:
                acquired[guid] = self.acquire(guid)
                _run_at_once(acquired[guid].__aenter__())
        try:
            yield acquired.keys()
        finally:
            for acquisition in acquired.values():
                _run_at_once(acquisition.__aexit__())


class _SharedLock(asyncio.Lock):
    """The lock of a GUID, and the number of writers that hold it, wait for it, or are just being woken."""

    users = 0


class _Acquisition:
    """One use of a GUID's lock. It waits at most `seconds`."""

    __slots__ = ("_guid", "_lock", "_locks", "_seconds")

    def __init__(self, locks: dict[str, _SharedLock], guid: str, seconds: float) -> None:
        self._locks = locks
        self._guid = guid
        self._seconds = seconds

    async def __aenter__(self) -> None:
        lock = self._locks.get(self._guid)
        if lock is None:
            lock = self._locks[self._guid] = _SharedLock()
        self._lock = lock
        lock.users += 1
        try:
            if lock.users == 1:  # the usual case, which needs no timer
                await lock.acquire()
                return
            async with asyncio.timeout(self._seconds):
                await lock.acquire()
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutError):
                raise Contention(f"GUID {self._guid} has too many concurrent writes; retry later") from error
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._lock.users -= 1
        if not self._lock.users:
            del self._locks[self._guid]


def _run_at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("a free lock was waited for")
