"""The store contract: a database of repositories, implemented by SQLite and MongoDB.

A cache wraps the repository of records; instruments wrap every repository.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import GuidsvcError
from guidsvc.store.cache_fence import FenceStore
from guidsvc.store.event_log import EventLog

Item = TypeVar("Item")


class Swap(NamedTuple):
    """The arguments of `RecordRepository.swap`."""

    old: Record | None
    new: Record | None
    not_after: int | None = None
    origin: Origin = NO_ORIGIN

    @property
    def guid(self) -> str:
        """The GUID of the record."""
        return (self.old or self.new).guid  # type: ignore[union-attr]  # by contract, one of them is a record


class WouldBlock(Enum):
    """The result of `get_nowait` when the answer requires waiting for I/O."""

    WOULD_BLOCK = "far"


WOULD_BLOCK = WouldBlock.WOULD_BLOCK
TakeTurn = Callable[[], Awaitable[None]]
"""Waits for a turn of work that blocks the event loop. The work must follow without another wait."""


class Repository(Protocol[Item]):
    """Items by key. Every method may raise Unavailable, which means that nothing was changed."""

    async def get(self, key: str, /) -> Item | None:
        """Return the item with this key, or None if it is absent; CorruptRecord if it cannot be parsed."""

    async def swap(self, old: Item | None, new: Item | None) -> bool:
        """Replace `old` with `new`, atomically and durably; None for either means absent.

        Return False, and change nothing, unless the stored item has the version of `old`, or is absent if `old` is
        None. When it returns True, the change is on disk and every later `get` sees it.

        OutcomeUnknown: the write was sent but not answered; it may have taken effect or may do so later.
        """


class BegunGet(Protocol):
    """A `get` that has begun and waits for a cache, without a task."""

    @property
    def record(self) -> Record | None:
        """After the reply of the cache: the live record, if the cache had it."""

    def on_reply(self, callback: Callable[[], object], /) -> None:
        """Call this once the cache has replied, in a later iteration of the event loop."""

    async def finish(self) -> Record | None:
        """Return, after the reply, what `get` would."""


class RecordRepository(Repository[Record], Protocol):
    """Records by GUID. `get` also returns expired records."""

    @property
    def commits_chains(self) -> bool:
        """Whether `swap_chain` commits its swaps together. If not, each takes as long as one of its own."""

    def get_nowait(self, guid: str, /) -> "Record | WouldBlock | None":
        """Return what `get` would if that needs no waiting, else WOULD_BLOCK."""

    def begin_get(self, guid: str, caller: str, /) -> BegunGet | None:
        """Begin a `get` without a task, after `get_nowait` returned WOULD_BLOCK; None if no cache needs to be asked.

        It takes a turn of the caller.
        """

    async def get_for_update(self, guid: str, /) -> Record | None:
        """Return what `get` would, for a caller that is about to change it. The Redis cache reads from the store."""

    async def get_many_for_update(
        self, guids: Sequence[str], take_turn: TakeTurn, /
    ) -> Mapping[str, Record] | WouldBlock:
        """Return what `get_for_update` would for each GUID, without those that are absent.

        WOULD_BLOCK if that needs waiting for the store, or if `swap_many` is not supported. Large metadata is validated
        in parts, and `take_turn` waits between them, so that other requests run.
        """

    async def get_linearizable(self, guid: str, /) -> Record | None:
        """Return what `get` would, once no earlier write is half done: a write that shows later was made later."""

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        """Replace `old` with `new`, as `Repository.swap` does, and before a deadline.

        The same atomic step appends the entries of this change to the event log, with its origin; see
        `guidsvc.domain.events.entry.change_of`.

        Also return False, and change nothing, if the change would take effect after `not_after`, in milliseconds by the
        store's own clock (see `FenceStore`). The deadline covers the change itself, not only the check: a store that
        checks the time and then waits for a lock must bound that wait too (`guidsvc.store.mongo.deadline`).
        """

    async def swap_many(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        """Execute swaps of different GUIDs, each as `swap` does. Return the result of each, or its error."""

    async def swap_chain(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        """Execute swaps of one GUID in order, each as `swap` does. Return the result of each, or its error.

        The `old` of each is the `new` of the one before it, and the first `old` is a record. None takes effect unless
        all before it did. Their versions do not ensure that: another process may have stored a record of its own with
        the version that a swap of this chain expects.
        """

    async def find(self, selection: Selection, after: str, limit: int) -> Sequence[Record]:
        """Return the first `limit` records of a selection whose GUID is greater than `after`, in GUID order.

        A shorter page means that no more records match. A record written during the search is found in either state.
        """

    async def find_by_expire(self, selection: Selection, after: Position, limit: int) -> Sequence[Record]:
        """Return the first `limit` records of a selection after a position, ordered by expiry, then GUID.

        A shorter page means that no more records match. The cost of a page does not depend on its position. For one
        owner or user it is at most that of a count.
        """

    async def count(self, selection: Selection) -> int:
        """Count the records of a selection."""

    async def count_linearizable(self, selection: Selection) -> int:
        """Count the records of a selection, including every swap acknowledged before the call.

        Waits for unfinished swaps, so no swap whose `not_after` has passed can become visible after the count.
        """

    async def count_by_expire(self, bounds: Sequence[int], kept_at: int) -> Sequence[int]:
        """Count the records that expire between each two successive bounds: from the first on, and before the second.

        Bounds are Unix seconds, rising. Records past their retention at `kept_at` are not counted. One owner's records
        cannot be selected: the counts come from the index on the expiry alone. A record that changes meanwhile may be
        counted in either state, or, if counts of ranges are separate reads, in both or neither.
        """


class _SwapsRecords(Protocol):
    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool: ...


class WithoutGroups:
    """A base of record repositories that swap records one by one only, and ask no cache."""

    commits_chains: bool = False

    def begin_get(self, guid: str, caller: str, /) -> BegunGet | None:  # noqa: ARG002  # see the class
        return None

    async def swap_chain(self: "_SwapsRecords", swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        results: list[bool | GuidsvcError] = []
        for old, new, not_after, origin in swaps:
            if results and results[-1] is not True:
                results.append(False)
                continue
            try:
                results.append(await self.swap(old, new, not_after=not_after, origin=origin))
            except GuidsvcError as error:
                results.append(error)
        return results

    async def get_many_for_update(
        self,
        guids: Sequence[str],  # noqa: ARG002  # no swap follows
        take_turn: TakeTurn,  # noqa: ARG002  # as above
        /,
    ) -> Mapping[str, Record] | WouldBlock:
        return WOULD_BLOCK

    async def swap_many(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        raise NotImplementedError(f"{len(swaps)} swaps of a repository that swaps records one by one")


class ReceiptRepository(Repository[Receipt], Protocol):
    """Receipts of requests, by key. Their version is the attempt."""

    async def usage(self, prefix: str) -> ReceiptUsage:
        """Count the receipts whose key starts with this hexadecimal prefix; an empty prefix counts all."""

    async def purge(self, before: int, limit: int) -> int:
        """Delete at most `limit` receipts whose `purge_at` is before this time, in Unix seconds; return the number."""


class ApiKeyRepository(Repository[ApiKey], Protocol):
    """API keys, by id."""

    async def list(self, after: str, limit: int) -> Sequence[ApiKey]:
        """Return the first `limit` API keys whose id is greater than `after`, in id order."""


LedgerRepository = Repository[QuotaLedger]
"""Quota ledgers, by owner."""


class Database(Protocol):
    """A complete store. Opening it exclusively releases the leases of all receipts: their holders are dead."""

    @property
    def records(self) -> RecordRepository:
        """The records."""

    @property
    def receipts(self) -> ReceiptRepository:
        """The receipts of requests with an idempotency key."""

    @property
    def api_keys(self) -> ApiKeyRepository:
        """The API keys."""

    @property
    def ledgers(self) -> LedgerRepository:
        """The quota ledgers."""

    @property
    def events(self) -> EventLog:
        """The log of what happened to the records."""

    @property
    def fence(self) -> FenceStore:
        """The cache fence, and the clock of the store."""

    async def store_id(self) -> str:
        """Return the unique id of this store. The first process that opens a SQLite store replaces it.

        A cache that outlives its processes uses it as a name space. So it never serves the records of another store,
        nor records that were since overwritten by a process that bypassed the cache.
        """

    async def ping(self) -> None:
        """Return if the store answers; StoreUnavailable if it does not, StoreReadOnly if it rejects writes."""

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(False)`, in any thread, when another process may open a store that is open exclusively here.

        Call `changed(True)`, on the event loop, when that process can no longer write. A store without enforced claims
        calls neither.
        """
