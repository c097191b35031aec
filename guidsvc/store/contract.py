"""The contract of a store: what SQLite and MongoDB implement, and what caches wrap."""

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
    """Whether there is a record, and which, cannot be told at once."""

    WOULD_BLOCK = "far"


WOULD_BLOCK = WouldBlock.WOULD_BLOCK


class Store(Protocol):
    """Records by GUID. Every method may raise StoreUnavailable: nothing was changed."""

    async def get(self, guid: str) -> Record | None:
        """Return what is stored under a GUID, expired or not; CorruptRecord if that is no record."""

    def get_nowait(self, guid: str) -> "Record | WouldBlock | None":
        """Return what `get` would, if that is at hand; or FAR, if it has to be waited for."""

    async def get_for_update(self, guid: str) -> Record | None:
        """Return what `get` would, for one who is about to change it: a cache asks the store itself."""

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        """Put `new` in the place of `old`, atomically and durably; one of them may be None, for absent.

        False, and nothing is changed, unless what is stored still has the version of `old`, or is absent where
        `old` is None. When it returns True, the change is on disk, and every later `get` sees it.

        False, and nothing is changed, also if it would take effect later than `not_after`, in milliseconds by the
        store's own clock, which `fence` tells. The change itself must be in time, not only the check: a store that
        checks the time and then waits for a lock must end the wait too (`guidsvc.store.mongo.deadline`).

        OutcomeUnknown: the write was sent and no answer came; it may have happened or may happen yet.
        """

    async def find(self, selection: Selection, after: str, limit: int) -> Sequence[Record]:
        """Return the first records of a selection whose GUID is greater than `after`, in the order of their GUIDs.

        Fewer than `limit` only if there are no more. Of a record that is written meanwhile either state is found.
        """

    async def count(self, selection: Selection) -> int:
        """Count the records of a selection."""

    async def purge(self, before: int, limit: int) -> int:
        """Forget at most `limit` records whose `purge_at` is before this time, in Unix seconds; return how many.

        The time must not be in the future: a record that may still be served is not to be purged.
        """

    async def store_id(self) -> str:
        """Return the name of this store: another for every store, and a new one whenever it is opened exclusively.

        A cache that outlives its processes keeps a store's records under it, so that no other store's are taken
        for them, nor what they were before somebody wrote past the cache.
        """

    async def ping(self) -> None:
        """Return if the store answers; StoreUnavailable if it does not, StoreReadOnly if it takes no write."""


class ReceiptRepository(Clocked, Protocol):
    """Receipts of requests, by key. Every method may raise StoreUnavailable: nothing was changed."""

    async def receipt(self, key: str) -> Receipt | None:
        """Return what is stored under a key; CorruptRecord if that is no receipt."""

    async def swap_receipt(self, old: Receipt | None, new: Receipt | None) -> bool:
        """Put `new` in the place of `old` if that is still at the same attempt, as `Store.swap` does a record."""

    async def receipt_usage(self, prefix: str) -> ReceiptUsage:
        """Count the receipts whose key, of hexadecimal digits, begins with this; those of all, if it is empty."""

    async def purge_receipts(self, before: int, limit: int) -> int:
        """Forget at most `limit` receipts whose `purge_at` is before this time, in Unix seconds; return how many."""


class ApiKeyRepository(Protocol):
    """API keys, by their id. Every method may raise StoreUnavailable: nothing was changed."""

    async def key(self, key_id: str) -> ApiKey | None:
        """Return what is stored under an id; CorruptRecord if that is no key."""

    async def keys(self, after: str, limit: int) -> Sequence[ApiKey]:
        """Return the first keys whose id is greater than `after`, in the order of their ids."""

    async def swap_key(self, old: ApiKey | None, new: ApiKey | None) -> bool:
        """Put `new` in the place of `old` if that is still at the same version, as `Store.swap` does a record."""


class LedgerRepository(Clocked, Protocol):
    """The ledgers of owners, and what they have. Every method may raise StoreUnavailable: nothing was changed."""

    async def ledger(self, owner: str) -> QuotaLedger | None:
        """Return the ledger of an owner; CorruptRecord if what is stored is none."""

    async def swap_ledger(self, old: QuotaLedger | None, new: QuotaLedger) -> bool:
        """Put `new` in the place of `old` if that is still at the same version, as `Store.swap` does a record."""

    async def count_linearizable(self, selection: Selection) -> int:
        """Count the records of a selection; among them every one whose swap was acknowledged before this was asked.

        A swap that is half done is waited for, so that none whose `not_after` has passed can show after the count.
        """


class Backend(Store, ReceiptRepository, FenceStore, Protocol):
    """What keeps it all. Opened exclusively, it lets go of every lease: whoever held one is dead."""

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(False)`, in any thread, when another process may open what this one opened exclusively.

        Call `changed(True)`, on the event loop, when that process can no longer write. A store that enforces no claim
        calls neither.
        """


class Database(Backend, ApiKeyRepository, LedgerRepository, Protocol):
    """All that is kept."""
