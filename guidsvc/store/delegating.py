"""Base class for store decorators: delegates every call; subclasses override what they change."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.store.cache_fence import FenceReading
from guidsvc.store.contract import Store, WouldBlock

_Store = TypeVar("_Store", bound=Store)


class DelegatingStore(Generic[_Store]):
    """A decorator that passes every call to the wrapped store."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def get(self, guid: str) -> Record | None:
        return await self._store.get(guid)

    def get_nowait(self, guid: str) -> Record | WouldBlock | None:
        return self._store.get_nowait(guid)

    async def get_for_update(self, guid: str) -> Record | None:
        return await self._store.get_for_update(guid)

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        return await self._store.swap(old, new, not_after=not_after)

    async def fence(self) -> FenceReading:
        return await self._store.fence()

    async def find(self, selection: Selection, after: str, limit: int) -> Sequence[Record]:
        return await self._store.find(selection, after, limit)

    async def count(self, selection: Selection) -> int:
        return await self._store.count(selection)

    async def purge(self, before: int, limit: int) -> int:
        return await self._store.purge(before, limit)

    async def store_id(self) -> str:
        return await self._store.store_id()

    async def ping(self) -> None:
        await self._store.ping()
