"""A store decorator that measures the latency of each operation and counts failures."""

from collections.abc import Callable, Sequence
from time import perf_counter
from types import TracebackType

from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import GuidsvcError
from guidsvc.store.cache_fence import Fence, FenceReading
from guidsvc.store.contract import WOULD_BLOCK, Backend, WouldBlock
from guidsvc.store.delegating import DelegatingStore
from guidsvc.telemetry.metrics import Stopwatch, StoreMetrics


class InstrumentedStore(DelegatingStore[Backend]):
    """A measured store. Receipt operations are not measured."""

    def __init__(self, store: Backend, meter: StoreMetrics) -> None:
        super().__init__(store)
        self._meter = meter
        self._gets = meter.latencies["get"]

    async def get(self, guid: str) -> Record | None:
        with _Operation(self._meter, "get"):
            return await self._store.get(guid)

    def get_nowait(self, guid: str) -> Record | WouldBlock | None:
        begun = perf_counter()
        try:
            record = self._store.get_nowait(guid)
        except GuidsvcError:
            self._meter.failures["get"] += 1
            raise
        if record is not WOULD_BLOCK:
            self._gets.observe(perf_counter() - begun)
        return record

    async def get_for_update(self, guid: str) -> Record | None:
        with _Operation(self._meter, "get"):
            return await self._store.get_for_update(guid)

    async def get_linearizable(self, guid: str) -> Record | None:
        with _Operation(self._meter, "get"):
            return await self._store.get_linearizable(guid)

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        with _Operation(self._meter, "swap"):
            return await self._store.swap(old, new, not_after=not_after)

    async def find(self, selection: Selection, after: str, limit: int) -> Sequence[Record]:
        with _Operation(self._meter, "find"):
            return await self._store.find(selection, after, limit)

    async def count(self, selection: Selection) -> int:
        with _Operation(self._meter, "count"):
            return await self._store.count(selection)

    async def fence(self) -> FenceReading:
        with _Operation(self._meter, "fence"):
            return await self._store.fence()

    async def swap_fence(self, old: Fence, new: Fence) -> bool:
        with _Operation(self._meter, "fence"):
            return await self._store.swap_fence(old, new)

    async def receipt(self, key: str) -> Receipt | None:
        return await self._store.receipt(key)

    async def swap_receipt(self, old: Receipt | None, new: Receipt | None) -> bool:
        return await self._store.swap_receipt(old, new)

    async def receipt_usage(self, prefix: str) -> ReceiptUsage:
        return await self._store.receipt_usage(prefix)

    async def purge_receipts(self, before: int, limit: int) -> int:
        return await self._store.purge_receipts(before, limit)

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        self._store.on_claim(changed)


class _Operation(Stopwatch):
    __slots__ = ("_meter", "_name")

    def __init__(self, meter: StoreMetrics, name: str) -> None:
        super().__init__(meter.latencies[name])
        self._meter = meter
        self._name = name

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        if isinstance(error, GuidsvcError):
            self._meter.failures[self._name] += 1
