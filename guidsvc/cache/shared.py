"""The cache of many processes, in Redis.

    read    a value that is there is returned, and many are read in one step; else READ says: a value; or a token,
            with which what the store says may be filled in; or busy: a write or a fill is under way, and the store
            is asked
    swap    BEGIN takes the key out, or the write is refused; the store swaps; END must find the boot and the
            marker unchanged, else the key is taken out again; only then is the write acknowledged

Why nothing stale is ever filled in: a fill needs the token of its reader, and every BEGIN drops it, so a reader
that asked the store before a write cannot fill after it. While the marker stands no token is given. When Redis
loses its memory, the boot (its name space) is over, and with it everything that was kept under it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import structlog
from cachebox import LRUCache
from pydantic import ValidationError

from guidsvc.cache.link import BEGIN, END, FILL, READ, Link, open_link
from guidsvc.errors import CacheUnavailable, OutcomeUnknown, StoreUnavailable
from guidsvc.meters import CacheMeter
from guidsvc.models import Record
from guidsvc.rules import Clock
from guidsvc.store import FAR, Far, Store
from guidsvc.store.around import Around

MARKER_MS = 10_000
"""A marker whose writer died stands so long; a store answers well within it."""
QUARANTINE_MS = 3600 * 1000
"""So long is a key not cached after a write of it whose outcome is unknown, and which may land yet."""
TOKEN_MS = 3_000
ENTRY_MS = 24 * 3600 * 1000
"""The longest life of an entry, so that those of a boot that is over go too."""
DECODINGS, DECODED_BYTES = 10_000, 1024
"""So many values, of no more than so many bytes, are known by what they say, and need not be read again."""
BEGIN_SECONDS, SETTLE_SECONDS = 0.5, 1.5
"""How long a write waits for a link that is being made anew: before the store has it, and after."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_shared(
    url: str, store: Store, *, clock: Clock, meter: CacheMeter | None = None
) -> AsyncIterator["SharedCache"]:
    """Open the cache in the Redis that a URL names, whether or not it answers now, and close it at the end."""
    meter = CacheMeter() if meter is None else meter
    async with open_link(url, name=await store.identity(), meter=meter) as link:
        cache = SharedCache(store, link, clock=clock, meter=meter)
        try:
            yield cache
        finally:
            await cache.aclose()


class _Window(NamedTuple):
    """A write's right to go to the store: the key is out of the cache while this marker stands under this boot."""

    guid: str
    boot: str
    marker: str


class SharedCache(Around):
    """Records of `store` in Redis, for every process that uses the same Redis."""

    def __init__(self, store: Store, link: Link, *, clock: Clock, meter: CacheMeter | None = None) -> None:
        super().__init__(store)
        self._meter = CacheMeter() if meter is None else meter
        self._link = link
        self._clock = clock
        self._decodings: LRUCache[bytes, Record] = LRUCache(DECODINGS)  # what a value says never changes
        self._quarantines: set[asyncio.Task[None]] = set()

    async def get(self, guid: str) -> Record | None:
        """Return the entry; else what the store says, filled in with the token that READ gave, if it did."""
        try:
            value = await self._link.value(guid)
            if value.startswith(b"R"):  # then no write is under way: BEGIN drops it, and FILL waits for END
                self._meter.redis()
                return await self._decoded(guid, value[1:])
            token = secrets.token_hex(8)
            boot, (verdict, *values) = await self._link.call(READ, guid, token, TOKEN_MS)
        except CacheUnavailable:
            self._meter.miss()
            return await self._store.get(guid)
        if verdict == b"HIT":
            self._meter.redis()
            return await self._decoded(guid, values[0])
        self._meter.miss()
        record = await self._store.get(guid)
        if verdict == b"TOKEN" and record is not None:
            await self._fill(record, token, boot)
        return record

    def peek(self, guid: str) -> Record | Far | None:  # noqa: ARG002  # Redis is far away
        return FAR

    async def swap(self, old: Record | None, new: Record | None) -> bool:
        """BEGIN, then the store, then END: CacheUnavailable, and nothing changed, if the key cannot be taken out."""
        guid = (old or new).guid  # type: ignore[union-attr]  # the contract: one of them is a record
        window = await self._take_out(guid, BEGIN_SECONDS)
        try:
            swapped = await self._store.swap(old, new)
        except StoreUnavailable:
            await self._give_back(window)
            raise
        except (OutcomeUnknown, asyncio.CancelledError):
            self._quarantine(guid)
            raise
        if swapped:
            await self._settle(window)
        else:
            await self._give_back(window)
        return swapped

    async def check(self) -> None:
        await self._link.call(END, "", "")  # of a write that never began: the shortest way there and back

    async def aclose(self) -> None:
        """Give up what is still owed to the cache: the processes that go on have a marker for some seconds."""
        for task in self._quarantines:
            task.cancel()
        await asyncio.gather(*self._quarantines, return_exceptions=True)

    async def _fill(self, record: Record, token: str, boot: str) -> None:
        life = min(record.expire * 1000 - self._clock(), ENTRY_MS)
        if life > 0:
            with suppress(CacheUnavailable):  # the reader has its record; the link has told of the fault
                await self._link.call(FILL, record.guid, token, record.model_dump_json(), life, boot=boot)

    async def _decoded(self, guid: str, value: bytes) -> Record | None:
        record: Record | None = self._decodings.get(value)
        if record is None:
            try:
                record = Record.model_validate_json(value)
            except ValidationError as error:
                return await self._replaced(guid, str(error))
            if len(value) <= DECODED_BYTES:
                self._decodings.insert(value, record)
        if record.guid != guid:
            return await self._replaced(guid, f"it is of GUID {record.guid}")
        return record

    async def _replaced(self, guid: str, fault: str) -> Record | None:
        """Take out an entry that is no record of this GUID, and answer from the store."""
        _log.error("corrupt cache entry, taken out", guid=guid, fault=fault)
        with suppress(CacheUnavailable):
            await self._give_back(await self._take_out(guid, 0))
        return await self._store.get(guid)

    def _quarantine(self, guid: str) -> None:
        """Keep a key out of the cache, as soon as that can be done, for as long as a write of it may land yet."""
        task = asyncio.create_task(self._keep_out(guid))
        self._quarantines.add(task)
        task.add_done_callback(self._quarantines.discard)

    async def _keep_out(self, guid: str) -> None:
        while True:
            with suppress(CacheUnavailable):
                await self._take_out(guid, SETTLE_SECONDS, life=QUARANTINE_MS)
                return
            await asyncio.sleep(BEGIN_SECONDS)

    async def _take_out(self, guid: str, seconds: float, *, life: int = MARKER_MS) -> _Window:
        """Take the key out of the cache and mark it; CacheUnavailable if that cannot be done within this time."""
        marker = secrets.token_hex(8)
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while True:
            try:
                reply = await self._link.call(BEGIN, guid, marker, life)
            except CacheUnavailable:
                if clock() >= deadline:
                    raise
                await self._link.wait_up(deadline - clock())
            else:
                return _Window(guid, reply.boot, marker)

    async def _end(self, window: _Window) -> bool:
        """Drop the marker; whether it stood until now, under a boot that still is."""
        reply = await self._link.call(END, window.guid, window.marker, boot=window.boot)
        return bool(reply.value == 1)

    async def _give_back(self, window: _Window) -> None:
        """Drop the marker of a write that changed nothing; one that cannot be dropped dies by itself."""
        with suppress(CacheUnavailable):
            await self._end(window)

    async def _settle(self, window: _Window) -> None:
        """Return when no cache can hold what was before this write; OutcomeUnknown if that cannot be made sure."""
        with suppress(CacheUnavailable):
            if await self._end(window):
                return
        try:
            again = await self._take_out(window.guid, SETTLE_SECONDS)
        except CacheUnavailable as error:
            self._quarantine(window.guid)
            raise OutcomeUnknown("the store has the write, but the cache could not be told of it") from error
        await self._give_back(again)
