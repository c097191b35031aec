"""Storage limit of receipts, per owner and in total, and the encoding of responses in receipts.

An owner leaves as much of the total free as it uses. So a few owners cannot fill it, and others always find some.

Usage is read from the store at most once a minute, for each owner and in total; in between, each process adds what it
writes. So several processes may exceed the limit by what they write between two counts.
"""

import asyncio
import zlib
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from hashlib import sha256

import structlog
from cachebox import LRUCache

from guidsvc.errors import CorruptRecord, GuidsvcError, ReceiptsFull
from guidsvc.runtime.background import spawn_detached
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import ReceiptRepository
from guidsvc.store.work_time import measured_work

RECEIPT_BYTES = 512
"""Size of a receipt without its answer, including its row and index entries."""
OWNER_BYTES, TOTAL_BYTES = 256 * 1024 * 1024, 1024 * 1024 * 1024
COUNT_EVERY_MS = 60_000
MAX_COUNT_EVERY_MS = 600_000
COUNT_SHARE = 100
"""The store's work on counts may take 1/COUNT_SHARE of the time: a slow count is repeated less often, but at the latest
after MAX_COUNT_EVERY_MS."""
COUNT_WAIT_SECONDS = 1.0
"""Maximum wait of a request for a count. A longer count continues, and the request uses the last result."""
OWNERS = 10_000
"""Maximum number of cached tallies; the least recently used is evicted."""
PLAIN_BYTES = 2 * 1024
"""Maximum size of an uncompressed answer."""
SMALL_BYTES = 64 * 1024
"""Maximum size of a response that may be unpacked on the event loop: it takes a tenth of a millisecond."""
MAX_UNPACKED_BYTES = 16 * 1024 * 1024
_PACKED = "zlib:"
_log = structlog.get_logger(__name__)


def prefix_of(owner: str) -> str:
    """Return the common prefix of the keys of an owner's receipts, in hexadecimal digits."""
    return sha256(owner.encode()).hexdigest()[:32]


def pack(rendered: bytes) -> str:
    """Encode an answer as text for a receipt, compressed if it is long."""
    if len(rendered) <= PLAIN_BYTES:
        return rendered.decode()
    return _PACKED + b64encode(zlib.compress(rendered, 1)).decode()


def unpack(text: str) -> bytes:
    """Decode an answer that `pack` encoded; raise CorruptRecord if it is invalid."""
    rendered, is_whole = _inflate(text, MAX_UNPACKED_BYTES)
    if not is_whole:
        raise CorruptRecord(f"a stored answer is truncated, or larger than {MAX_UNPACKED_BYTES} bytes")
    return rendered


def unpack_small(text: str) -> bytes | None:
    """Return the decoded answer if it is uncompressed or has at most SMALL_BYTES, else None."""
    rendered, is_whole = _inflate(text, SMALL_BYTES)
    return rendered if is_whole else None


def _inflate(text: str, most: int) -> tuple[bytes, bool]:
    """Return at most `most` bytes of a compressed answer, or all of an uncompressed one; and whether it is complete."""
    if not text.startswith(_PACKED):
        return text.encode(), True
    try:
        inflate = zlib.decompressobj()
        rendered = inflate.decompress(b64decode(text[len(_PACKED) :], validate=True), most)
    except (NoBase64, zlib.error) as error:
        raise CorruptRecord(f"a stored answer cannot be decompressed: {error}") from error
    return rendered, inflate.eof


class _Tally:
    """The bytes used by some receipts: as last counted, and written since; and how long the count is valid."""

    __slots__ = ("counted", "counted_at", "good_ms", "is_counting", "written")

    def __init__(self) -> None:
        self.counted = self.written = self.counted_at = self.good_ms = 0
        self.is_counting = False

    @property
    def used(self) -> int:
        """The bytes used, as far as this process knows."""
        return self.counted + self.written

    def is_due(self, now: int) -> bool:
        """Whether to count again: the count has expired, or the clock was set back."""
        return not (self.is_counting or 0 <= now - self.counted_at < self.good_ms)


class ReceiptRoom:
    """The storage limit of receipts: `owner_bytes` for each owner, and no more than is free of the `total_bytes`."""

    def __init__(
        self,
        receipts: ReceiptRepository,
        *,
        clock: Clock,
        owner_bytes: int = OWNER_BYTES,
        total_bytes: int = TOTAL_BYTES,
        count_wait_seconds: float = COUNT_WAIT_SECONDS,
    ) -> None:
        self._receipts = receipts
        self._clock = clock
        self._owner_bytes = owner_bytes
        self._total_bytes = total_bytes
        self._count_wait_seconds = count_wait_seconds
        self._counts: set[asyncio.Task[None]] = set()
        self._total = _Tally()
        self._owners: LRUCache[str, _Tally] = LRUCache(OWNERS)

    async def reserve(self, owner: str) -> None:
        """Reserve room for a new receipt of an owner; raise ReceiptsFull if the limit is reached."""
        prefix = prefix_of(owner)
        own = self._tally(prefix)
        for tally, counted in ((own, prefix), (self._total, "")):
            if tally.is_due(self._clock()):
                await self._refresh(tally, counted)
        most = min(self._owner_bytes, self._total_bytes - self._total.used)
        if own.used + RECEIPT_BYTES > most:
            raise ReceiptsFull
        self.add(owner, RECEIPT_BYTES)

    def add(self, owner: str, size: int) -> None:
        """Add bytes written for an owner; negative if deleted."""
        for tally in (self._tally(prefix_of(owner)), self._total):
            tally.written += size

    def _tally(self, prefix: str) -> _Tally:
        tally: _Tally | None = self._owners.get(prefix)
        if tally is None:
            tally = _Tally()
            self._owners.insert(prefix, tally)
        return tally

    async def _refresh(self, tally: _Tally, prefix: str) -> None:
        """Start a count, and wait for it for a limited time."""
        tally.is_counting = True
        count = spawn_detached(self._count(tally, prefix))
        self._counts.add(count)
        count.add_done_callback(self._counts.discard)
        await asyncio.wait([count], timeout=self._count_wait_seconds)
        if count.done():
            count.result()

    async def _count(self, tally: _Tally, prefix: str) -> None:
        """Refresh a tally from the store. If the store fails, the tally stays as it is, and the log says so."""
        before = tally.written
        try:
            with measured_work() as work:
                usage = await self._receipts.usage(prefix)
        except GuidsvcError as error:
            _log.warning("receipts not counted, limit uses last count", prefix=prefix, error=str(error))
        else:
            tally.counted = usage.number * RECEIPT_BYTES + usage.answer_bytes
            tally.written -= before  # bytes written during the count may count twice, until the next one
        finally:
            tally.is_counting = False
            good_ms = max(COUNT_EVERY_MS, round(COUNT_SHARE * work.seconds * 1000))
            tally.counted_at, tally.good_ms = self._clock(), min(MAX_COUNT_EVERY_MS, good_ms)
