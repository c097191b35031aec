"""Requests that may be sent again: each is done once, and answered the same every time.

A request that names a key first claims its receipt in the store, with a lease and a seed. What it draws at random it
draws from the seed, so whoever does it again makes the same GUIDs, and finds what was created before. When it is done
its answer goes into the receipt. If the process dies in the middle the lease runs out. The next who comes with the key
does the request again from the same seed, if all that it does is to create under GUIDs that are drawn, and to read;
what it does to GUIDs that it names, others may have changed since, so it is told that the outcome is unknown.

    no receipt            claimed, and done
    another fingerprint   IdempotencyMismatch: the key was for another request
    an answer             given again
    a lease that holds    InProgress
    a lease that is over  claimed, and done again from the same seed; or, where that could undo what others did since,
                          OutcomeUnknown
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import NamedTuple

import structlog
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from guidsvc import errand
from guidsvc.background import background
from guidsvc.errors import (
    CorruptRecord,
    GuidsvcError,
    IdempotencyMismatch,
    InProgress,
    OutcomeUnknown,
    StoreUnavailable,
)
from guidsvc.models import Receipt
from guidsvc.rules import Clock, Draw
from guidsvc.store import Receipts

KEPT_SECONDS = 24 * 3600
LEASE_SECONDS = 10.0
"""A request whose process died can be done again after so long; one that is still being done renews its lease."""
MAX_ANSWER_BYTES = 12 * 1024 * 1024
"""A larger answer, as JSON, is not kept (a document of MongoDB has at most 16 MiB): as if its process had died."""

_log = structlog.get_logger(__name__)


class Reply(NamedTuple):
    """What a client is answered."""

    status: int
    headers: dict[str, str]
    body: str | None


Draws = Callable[[int], Draw]
"""Returns what draws the GUID of the operation in this place of a request: the same each time it is done."""
Work = Callable[[Draws | None], Awaitable[Reply]]
"""Does a request, with draws of its own if it is one that may be done again."""
_REPLIES = TypeAdapter(Reply)


class Request(NamedTuple):
    """A request as it is told from others: who sent it, under which key, and a digest of all that it says."""

    caller: str
    key: str
    fingerprint: str
    repeatable: bool = True
    """Whether it does nothing but to create under GUIDs that are drawn, and to read."""

    @property
    def name(self) -> str:
        """What its receipt is kept under."""
        return sha256(to_json([self.caller, self.key])).hexdigest()


class Idempotency:
    """Does requests once. `seeded` makes a Draw of a seed, the place of an operation and a time in milliseconds."""

    def __init__(
        self,
        receipts: Receipts,
        *,
        clock: Clock,
        seeded: Callable[[bytes, int, int], Draw],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._receipts = receipts
        self._clock = clock
        self._seeded = seeded
        self._lease_seconds = lease_seconds

    async def once(self, request: Request, work: Work) -> tuple[Reply, bool]:
        """Return the answer to a request, and whether it was given before.

        What `work` raises is raised, and not kept. IdempotencyMismatch and InProgress as it is told above.
        """
        with errand.kept():  # nothing is cut off between what is done and its receipt
            receipt, fresh = await self._claim(request)
            if receipt.answer is not None:
                return _read(receipt.answer), True
            async with self._held(receipt, fresh=fresh) as hold:
                answer = await work(lambda place: self._seeded(bytes.fromhex(receipt.seed), place, receipt.claimed))
                await hold.complete(answer)
            return answer, False

    async def _claim(self, request: Request) -> tuple[Receipt, bool]:
        """Return the receipt of a request, claimed or answered; and whether nobody had one before."""
        now = self._clock()
        found = await self._receipts.receipt(request.name)
        fresh = found is None or found.purge_at * 1000 <= now
        if found is None or fresh:
            claim = self._new(request, now, attempt=1 if found is None else found.attempt + 1)
        elif found.fingerprint != request.fingerprint:
            raise IdempotencyMismatch
        elif found.answer is not None:
            return found, False
        elif found.leased_until > now:
            raise InProgress
        elif not request.repeatable:
            raise OutcomeUnknown("the first request under this key was begun, and its answer was not kept")
        else:
            claim = found.model_copy(update={"attempt": found.attempt + 1, "leased_until": self._lease(now)})
        if not await self._receipts.swap_receipt(found, claim):
            raise InProgress
        return claim, fresh

    def _new(self, request: Request, now: int, attempt: int) -> Receipt:
        return Receipt(
            key=request.name,
            fingerprint=request.fingerprint,
            attempt=attempt,
            leased_until=self._lease(now),
            seed=os.urandom(16).hex(),
            claimed=now,
            purge_at=now // 1000 + KEPT_SECONDS,
        )

    def _lease(self, now: int) -> int:
        return now + round(self._lease_seconds * 1000)

    @asynccontextmanager
    async def _held(self, receipt: Receipt, *, fresh: bool) -> AsyncIterator["_Hold"]:
        """Hold a receipt, inside; at the end its answer is in it, or it is free to be claimed again."""
        hold = _Hold(self._receipts, receipt)
        try:
            async with background(self._renew(hold)):
                yield hold
        except (OutcomeUnknown, asyncio.CancelledError):
            await hold.let_go()
            raise
        except GuidsvcError:  # nothing was changed: by this attempt
            await (hold.forget() if fresh else hold.let_go())
            raise
        except BaseException:
            await hold.let_go()
            raise

    async def _renew(self, hold: "_Hold") -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            # What has begun to renew is not cut off: the hold must know what is in the store.
            await asyncio.shield(hold.renew(self._lease(self._clock())))


class _Hold:
    """A receipt while its request is being done. That it cannot be written is no reason to fail the request."""

    def __init__(self, receipts: Receipts, receipt: Receipt) -> None:
        self._receipts = receipts
        self._receipt = receipt
        self._turn = asyncio.Lock()

    async def complete(self, answer: Reply) -> None:
        """Keep the answer; one that is too large leaves the request to be done again."""
        rendered = to_json(answer)
        if len(rendered) <= MAX_ANSWER_BYTES:
            await self._put(answer=rendered.decode())
        else:
            await self.let_go()

    async def renew(self, until: int) -> None:
        """Hold it until then."""
        if self._receipt.answer is None:
            await self._put(leased_until=until)

    async def let_go(self) -> None:
        """Let whoever comes next do the request again."""
        await self._put(leased_until=0)

    async def forget(self) -> None:
        """Leave no trace of a request that did nothing."""
        async with self._turn:
            await self._swap(None)

    async def _put(self, **changed: object) -> None:
        async with self._turn:
            new = self._receipt.model_copy(update={"attempt": self._receipt.attempt + 1, **changed})
            if await self._swap(new):
                self._receipt = new

    async def _swap(self, new: Receipt | None) -> bool:
        try:
            return await self._receipts.swap_receipt(self._receipt, new)
        except (StoreUnavailable, OutcomeUnknown) as error:
            _log.warning("receipt not written", key=self._receipt.key, error=str(error))
            return False


def _read(text: str) -> Reply:
    try:
        return _REPLIES.validate_json(text)
    except ValidationError as error:
        raise CorruptRecord(f"an answer that was kept is none: {error}") from error
