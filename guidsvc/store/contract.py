"""The store contract: implemented by SQLite and MongoDB, and wrapped by the caches."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.store.cache_fence import Clocked, FenceStore


class WouldBlock(Enum):
    """The result of `get_nowait` when the answer requires waiting for I/O."""

    WOULD_BLOCK = "far"


WOULD_BLOCK = WouldBlock.WOULD_BLOCK


class Store(Clocked, Protocol):
    """Records by GUID. Every method may raise StoreUnavailable, which means that nothing was changed."""

    async def get(self, guid: str) -> Record | None:
        """Return the stored record, expired or not, or None if it is absent; CorruptRecord if it cannot be parsed."""

    def get_nowait(self, guid: str) -> "Record | WouldBlock | None":
        """Return what `get` would if that needs no waiting, else WOULD_BLOCK."""

    async def get_for_update(self, guid: str) -> Record | None:
        """Return what `get` would, for a caller that is about to change it. The Redis cache reads from the store."""

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        """Replace `old` with `new`, atomically and durably; None for either means absent.

        Return False, and change nothing, unless the stored record has the version of `old`, or is absent if `old` is
        None. When it returns True, the change is on disk and every later `get` sees it.

        Also return False, and change nothing, if the change would take effect after `not_after`, in milliseconds by the
        store's own clock (see `fence`). The deadline covers the change itself, not only the check: a store that checks
        the time and then waits for a lock must bound that wait too (`guidsvc.store.mongo.deadline`).

        OutcomeUnknown: the write was sent but not answered; it may have taken effect or may do so later.
        """

    async def find(self, selection: Selection, after: str, limit: int) -> Sequence[Record]:
        """Return the first `limit` records of a selection whose GUID is greater than `after`, in GUID order.

        A shorter page means that no more records match. A record written during the search is found in either state.
        """

    async def count(self, selection: Selection) -> int:
        """Count the records of a selection."""

    async def purge(self, before: int, limit: int) -> int:
        """Delete at most `limit` records whose `purge_at` is before this time, in Unix seconds; return the number.

        The time must not be in the future: a record that may still be served must not be purged.
        """

    async def store_id(self) -> str:
        """Return the unique id of this store. Opening the store exclusively replaces it.

        A cache that outlives its processes uses it as a name space. So it never serves the records of another store,
        nor records that were since overwritten by a process that bypassed the cache.
        """

    async def ping(self) -> None:
        """Return if the store answers; StoreUnavailable if it does not, StoreReadOnly if it rejects writes."""


class ReceiptRepository(Clocked, Protocol):
    """Receipts of requests, by key. Every method may raise StoreUnavailable, which means that nothing was changed."""

    async def receipt(self, key: str) -> Receipt | None:
        """Return the receipt with this key, or None if it is absent; CorruptRecord if it cannot be parsed."""

    async def swap_receipt(self, old: Receipt | None, new: Receipt | None) -> bool:
        """Replace `old` with `new` if the stored receipt is still at the same attempt; see `Store.swap`."""

    async def receipt_usage(self, prefix: str) -> ReceiptUsage:
        """Count the receipts whose key starts with this hexadecimal prefix; an empty prefix counts all."""

    async def purge_receipts(self, before: int, limit: int) -> int:
        """Delete at most `limit` receipts whose `purge_at` is before this time, in Unix seconds; return the number."""


class ApiKeyRepository(Protocol):
    """API keys, by id. Every method may raise StoreUnavailable, which means that nothing was changed."""

    async def key(self, key_id: str) -> ApiKey | None:
        """Return the API key with this id, or None if it is absent; CorruptRecord if it cannot be parsed."""

    async def keys(self, after: str, limit: int) -> Sequence[ApiKey]:
        """Return the first `limit` API keys whose id is greater than `after`, in id order."""

    async def swap_key(self, old: ApiKey | None, new: ApiKey | None) -> bool:
        """Replace `old` with `new` if the stored API key still has the same version; see `Store.swap`."""


class LedgerRepository(Clocked, Protocol):
    """Quota ledgers, by owner. Every method may raise StoreUnavailable, which means that nothing was changed."""

    async def ledger(self, owner: str) -> QuotaLedger | None:
        """Return the ledger of an owner, or None if it is absent; CorruptRecord if it cannot be parsed."""

    async def swap_ledger(self, old: QuotaLedger | None, new: QuotaLedger) -> bool:
        """Replace `old` with `new` if the stored ledger still has the same version; see `Store.swap`."""

    async def count_linearizable(self, selection: Selection) -> int:
        """Count the records of a selection, including every swap acknowledged before the call.

        Waits for unfinished swaps, so no swap whose `not_after` has passed can become visible after the count.
        """


class Backend(Store, ReceiptRepository, FenceStore, Protocol):
    """A store with receipts and the cache fence. Opening it exclusively releases all leases: their holders are dead."""

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(False)`, in any thread, when another process may open a store that is open exclusively here.

        Call `changed(True)`, on the event loop, when that process can no longer write. A store without enforced claims
        calls neither.
        """


class Database(Backend, ApiKeyRepository, LedgerRepository, Protocol):
    """A complete store: records, receipts, the cache fence, API keys and quota ledgers."""
