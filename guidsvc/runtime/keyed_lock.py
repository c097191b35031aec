"""A per-GUID lock. Serializing the writers in this process avoids futile compare-and-swap retries."""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress

from guidsvc.errors import Contention

WAIT_SECONDS = 10.0
"""Maximum wait of a write for earlier writes of the same GUID, in seconds."""

_Waiters = deque[asyncio.Future[None]]


class KeyedLock:
    """The locks of all GUIDs. Waiters of a GUID get its lock in order of arrival."""

    def __init__(self) -> None:
        self._locks: dict[str, _Waiters | None] = {}  # only locks in use; None while nobody waits

    def is_held(self, guid: str) -> bool:
        """Whether a writer holds the lock of a GUID, or waits for it."""
        return guid in self._locks

    def free_places(self, guids: Iterable[str]) -> list[int]:
        """Return the places of those GUIDs whose locks nobody holds."""
        return [place for place, guid in enumerate(guids) if guid not in self._locks]

    def acquire(self, guid: str, seconds: float = WAIT_SECONDS) -> "_Acquisition":
        """Return the lock of a GUID, for use with `async with`. Entering raises Contention after a timeout."""
        return _Acquisition(self._locks, guid, seconds)

    @contextmanager
    def acquire_free(self, guids: Iterable[str]) -> Iterator[Collection[str]]:
        """Hold the locks of those GUIDs that nobody uses, in the block, and yield these GUIDs."""
        acquired = {guid: None for guid in guids if guid not in self._locks}
        self._locks.update(acquired)
        try:
            yield acquired.keys()
        finally:
            for guid in acquired:
                if self._locks[guid] is None:  # as in `_Acquisition`: the usual case, without a call
                    del self._locks[guid]
                else:
                    _pass_on(self._locks, guid)


class _Acquisition:
    """One use of a GUID's lock. It waits at most `seconds`."""

    __slots__ = ("_guid", "_locks", "_seconds")

    def __init__(self, locks: dict[str, _Waiters | None], guid: str, seconds: float) -> None:
        self._locks = locks
        self._guid = guid
        self._seconds = seconds

    async def __aenter__(self) -> None:
        if self._guid in self._locks:
            await self._wait()
        else:  # the usual case, which needs neither a future nor a timer
            self._locks[self._guid] = None

    async def __aexit__(self, *_: object) -> None:
        if self._locks[self._guid] is None:
            del self._locks[self._guid]
        else:
            _pass_on(self._locks, self._guid)

    async def _wait(self) -> None:
        waiters = self._locks[self._guid]
        if waiters is None:
            waiters = self._locks[self._guid] = deque()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(future)
        try:
            async with asyncio.timeout(self._seconds):
                await future
        except BaseException as error:
            if future.done() and not future.cancelled():
                _pass_on(self._locks, self._guid)  # it got the lock at the moment it was cancelled
            else:
                with suppress(ValueError):  # it was skipped just now
                    waiters.remove(future)
            if isinstance(error, TimeoutError):
                raise Contention(f"GUID {self._guid} has too many concurrent writes; retry later") from error
            raise


def _pass_on(locks: dict[str, _Waiters | None], guid: str) -> None:
    """Give the lock of a GUID to the next waiter; drop the lock if there is none."""
    waiters = locks[guid]
    while waiters:
        future = waiters.popleft()
        if not future.done():
            future.set_result(None)
            return
    del locks[guid]
