"""Base class for decorators of the records repository: delegates every call; subclasses override what they change."""

from collections.abc import Sequence

from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.store.contract import RecordRepository, WithoutGroups, WouldBlock


class DelegatingRecords(WithoutGroups):
    """A decorator that passes every call to the wrapped repository, but no groups: they would bypass a subclass.

    A subclass that overrides `swap_chain` also sets `commits_chains`.
    """

    def __init__(self, records: RecordRepository) -> None:
        self._records = records

    async def get(self, guid: str, /) -> Record | None:
        return await self._records.get(guid)

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:
        return self._records.get_nowait(guid)

    async def get_for_update(self, guid: str, /) -> Record | None:
        return await self._records.get_for_update(guid)

    async def get_linearizable(self, guid: str, /) -> Record | None:
        return await self._records.get_linearizable(guid)

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        return await self._records.swap(old, new, not_after=not_after, origin=origin)

    async def find(self, selection: Selection, after: str, limit: int) -> Sequence[Record]:
        return await self._records.find(selection, after, limit)

    async def find_by_expire(self, selection: Selection, after: Position, limit: int) -> Sequence[Record]:
        return await self._records.find_by_expire(selection, after, limit)

    async def count(self, selection: Selection) -> int:
        return await self._records.count(selection)

    async def count_linearizable(self, selection: Selection) -> int:
        return await self._records.count_linearizable(selection)

    async def count_by_expire(self, bounds: Sequence[int], kept_at: int) -> Sequence[int]:
        return await self._records.count_by_expire(bounds, kept_at)
