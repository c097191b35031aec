"""Decorators of repositories that measure the latency of each operation and count failures.

A purge is not measured: it belongs to no request.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Generic

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import GuidsvcError
from guidsvc.store.cache_fence import Fence, FenceReading, FenceStore
from guidsvc.store.contract import (
    WOULD_BLOCK,
    ApiKeyRepository,
    Database,
    Item,
    ReceiptRepository,
    RecordRepository,
    Repository,
    Swap,
    TakeTurn,
    WouldBlock,
)
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.telemetry.metrics import Stopwatch, StoreMetrics

_Swaps = Callable[[Sequence[Swap]], Awaitable[Sequence[bool | GuidsvcError]]]


class InstrumentedDatabase:
    """A database whose repositories and fence are measured."""

    def __init__(self, database: Database, meter: StoreMetrics) -> None:
        self._database = database
        self.records = InstrumentedRecords(database.records, meter)
        self.receipts = InstrumentedReceipts(database.receipts, meter)
        self.api_keys = InstrumentedApiKeys(database.api_keys, meter)
        self.ledgers = InstrumentedRepository(database.ledgers, meter, "ledger")
        self.events = database.events
        self.fence = InstrumentedFence(database.fence, meter)

    async def store_id(self) -> str:
        return await self._database.store_id()

    async def ping(self) -> None:
        await self._database.ping()

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        self._database.on_claim(changed)


class InstrumentedRepository(Generic[Item]):
    """A repository whose operations are measured as `{kind}_get` and `{kind}_swap`."""

    def __init__(self, repository: Repository[Item], meter: StoreMetrics, kind: str) -> None:
        self._repository = repository
        self._meter = meter
        self._get_operation, self._swap_operation = f"{kind}_get", f"{kind}_swap"

    async def get(self, key: str, /) -> Item | None:
        with _Operation(self._meter, self._get_operation):
            return await self._repository.get(key)

    async def swap(self, old: Item | None, new: Item | None) -> bool:
        with _Operation(self._meter, self._swap_operation):
            return await self._repository.swap(old, new)


class InstrumentedReceipts(InstrumentedRepository[Receipt]):
    """The receipts, measured."""

    def __init__(self, receipts: ReceiptRepository, meter: StoreMetrics) -> None:
        super().__init__(receipts, meter, "receipt")
        self._receipts = receipts

    async def usage(self, prefix: str) -> ReceiptUsage:
        with _Operation(self._meter, "receipt_usage"):
            return await self._receipts.usage(prefix)

    async def purge(self, before: int, limit: int) -> int:
        return await self._receipts.purge(before, limit)


class InstrumentedApiKeys(InstrumentedRepository[ApiKey]):
    """The API keys, measured."""

    def __init__(self, api_keys: ApiKeyRepository, meter: StoreMetrics) -> None:
        super().__init__(api_keys, meter, "api_key")
        self._api_keys = api_keys

    async def list(self, after: str, limit: int) -> Sequence[ApiKey]:
        with _Operation(self._meter, "api_key_list"):
            return await self._api_keys.list(after, limit)


class InstrumentedFence:
    """The cache fence, measured."""

    def __init__(self, fence: FenceStore, meter: StoreMetrics) -> None:
        self._fence = fence
        self._meter = meter

    async def read(self) -> FenceReading:
        with _Operation(self._meter, "fence"):
            return await self._fence.read()

    async def swap(self, old: Fence, new: Fence) -> bool:
        with _Operation(self._meter, "fence"):
            return await self._fence.swap(old, new)


class InstrumentedRecords(DelegatingRecords):
    """The records, measured."""

    def __init__(self, records: RecordRepository, meter: StoreMetrics) -> None:
        super().__init__(records)
        self.commits_chains = records.commits_chains
        self._meter = meter
        self._gets, self._swaps = meter.latencies["get"], meter.latencies["swap"]

    async def get(self, guid: str, /) -> Record | None:
        with _Operation(self._meter, "get"):
            return await self._records.get(guid)

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:
        begun = perf_counter()
        try:
            record = self._records.get_nowait(guid)
        except GuidsvcError:
            self._meter.failed("get")
            raise
        if record is not WOULD_BLOCK:
            self._gets.observe(perf_counter() - begun)
        return record

    async def get_for_update(self, guid: str, /) -> Record | None:
        with _Operation(self._meter, "get"):
            return await self._records.get_for_update(guid)

    async def get_many_for_update(
        self, guids: Sequence[str], take_turn: TakeTurn, /
    ) -> Mapping[str, Record] | WouldBlock:
        begun = perf_counter()

        async def take_unmeasured_turn() -> None:
            nonlocal begun
            waits_since = perf_counter()
            await take_turn()
            begun += perf_counter() - waits_since

        try:
            records = await self._records.get_many_for_update(guids, take_unmeasured_turn)
        except GuidsvcError:
            self._meter.failed("get")
            raise
        if records is not WOULD_BLOCK and guids:
            seconds = perf_counter() - begun
            self._gets.observe_many(seconds / len(guids), len(guids), seconds)
        return records

    async def get_linearizable(self, guid: str, /) -> Record | None:
        with _Operation(self._meter, "get"):
            return await self._records.get_linearizable(guid)

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        begun = perf_counter()
        try:  # without _Operation, which costs each write seven calls
            return await self._records.swap(old, new, not_after=not_after, origin=origin)
        except GuidsvcError:
            self._meter.failed("swap")
            raise
        finally:
            self._swaps.observe(perf_counter() - begun)

    async def swap_many(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        return await self._measured(self._records.swap_many, swaps)

    async def swap_chain(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        return await self._measured(self._records.swap_chain, swaps)

    async def _measured(self, execute: _Swaps, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        begun = perf_counter()
        results = await execute(swaps)
        seconds = perf_counter() - begun
        self._meter.latencies["swap"].observe_many(seconds, len(swaps), seconds)
        for _ in [result for result in results if isinstance(result, GuidsvcError)]:
            self._meter.failed("swap")
        return results

    async def find(self, selection: Selection, after: str, limit: int) -> Sequence[Record]:
        with _Operation(self._meter, "find"):
            return await self._records.find(selection, after, limit)

    async def find_by_expire(self, selection: Selection, after: Position, limit: int) -> Sequence[Record]:
        with _Operation(self._meter, "find"):
            return await self._records.find_by_expire(selection, after, limit)

    async def count(self, selection: Selection) -> int:
        with _Operation(self._meter, "count"):
            return await self._records.count(selection)

    async def count_linearizable(self, selection: Selection) -> int:
        with _Operation(self._meter, "count"):
            return await self._records.count_linearizable(selection)

    async def count_by_expire(self, bounds: Sequence[int], kept_at: int) -> Sequence[int]:
        with _Operation(self._meter, "count"):
            return await self._records.count_by_expire(bounds, kept_at)


class _Operation(Stopwatch):
    __slots__ = ("_meter", "_name")

    def __init__(self, meter: StoreMetrics, name: str) -> None:
        super().__init__(meter.latencies[name])
        self._meter = meter
        self._name = name

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        if isinstance(error, GuidsvcError):
            self._meter.failed(self._name)
