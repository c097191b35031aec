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

A process may stand still while its lease runs out and another does the request again. So the store rejects each
creation that comes after the end of the lease, as it was last renewed.

A receipt belongs to an owner and the scopes of the caller, so that no answer is given to a caller with other rights.
It is forgotten if nothing was begun: no write was sent to the store. Otherwise the request goes on to its end, though
its client has gone. An answer that was refused in part is not kept. Receipts have a bound in bytes, for each owner and
in all (`guidsvc.services.receipt_quota`): at the bound a new request is refused before anything is done.
A request whose answer is not sure to be stored is not acknowledged, if it can be done again: its client could delete
what was created, and a repetition would create it once more.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import structlog
from pydantic_core import to_json

from guidsvc.domain.guid_generator import ClaimedDraw, GuidGenerator
from guidsvc.domain.receipt import Receipt
from guidsvc.errors import (
    GuidsvcError,
    IdempotencyMismatch,
    InProgress,
    OutcomeUnknown,
    StoreUnavailable,
)
from guidsvc.http.response import Response
from guidsvc.runtime import cancel_scope as errand
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock
from guidsvc.services import write_attempt as attempts
from guidsvc.services.receipt_quota import OWNER_BYTES, RECEIPT_BYTES, TOTAL_BYTES, ReceiptRoom, pack, prefix_of
from guidsvc.services.stored_response import WAIT_SECONDS, StoredResponseReader
from guidsvc.services.write_attempt import Attempt
from guidsvc.store.contract import ReceiptRepository
from guidsvc.store.lease import LeaseClock, Timer

KEPT_SECONDS = 24 * 3600
LEASE_SECONDS = 10.0
"""A request whose process died can be done again after so long; one that is still being done renews its lease."""
RENEW_SECONDS = 4.0
"""A lease with less time left is renewed before a creation: a store may need some seconds for the creation."""
CLOCKS_SECONDS = 1.0
"""The difference that is allowed between the clocks of hosts: a lease ends earlier by this for whoever holds it."""
MAX_ANSWER_BYTES = 64 * 1024
"""An answer that takes more, compressed, is kept in brief; without one in brief, as if its process had died."""

_log = structlog.get_logger(__name__)


GuidFactory = Callable[[int], ClaimedDraw]
"""Returns what draws the GUID of the operation in this place of a request: the same each time it is done."""
RequestBody = Callable[[GuidFactory | None], Awaitable[Response]]
"""Does a request, with draws of its own if it is one that may be done again."""
Brief = Callable[[], Response]
"""Returns the answer that was given last, without what can be read again: to be kept where all of it is too large."""


class Request(NamedTuple):
    """A request as it is told from others: which owner sent it, under which key, and a digest of all that it says."""

    caller: str
    key: str
    fingerprint: str
    repeatable: bool = True
    """Whether it does nothing but to create under GUIDs that are drawn, and to read."""
    authority: tuple[str, ...] = ()
    """What the caller may do, and by what kind of credential."""

    @property
    def name(self) -> str:
        """What its receipt is kept under."""
        return prefix_of(self.caller) + sha256(to_json([self.caller, self.authority, self.key])).hexdigest()


class Idempotency:
    """Does requests once. `seeded` makes a Draw of a seed, the place of an operation and a time in milliseconds."""

    def __init__(  # noqa: PLR0913  # its collaborators, by name
        self,
        receipts: ReceiptRepository,
        *,
        clock: Clock,
        seeded: Callable[[bytes, int, int], GuidGenerator],
        lease_seconds: float = LEASE_SECONDS,
        timer: Timer = time.monotonic,
        owner_bytes: int = OWNER_BYTES,
        total_bytes: int = TOTAL_BYTES,
        replay_wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._receipts = receipts
        self._stored = StoredResponseReader(replay_wait_seconds)
        self._room = ReceiptRoom(receipts, clock=clock, owner_bytes=owner_bytes, total_bytes=total_bytes)
        self._clock = clock
        self._seeded = seeded
        self._lease_seconds = lease_seconds
        self._term = _Term(clock, LeaseClock(receipts, timer=timer), lease_seconds)

    async def once(self, request: Request, work: RequestBody, brief: Brief | None = None) -> tuple[Response, bool]:
        """Return the answer to a request, and whether it was given before.

        What `work` raises is raised, and not kept. IdempotencyMismatch, InProgress and ReceiptsFull as told above.
        """
        with errand.shielded():  # nothing is cut off between what is done and its receipt
            deadline = self._term.deadline
            receipt, fresh = await self._claim(request)
            if receipt.answer is not None:
                return await self._stored.read(request.caller, receipt.answer), True
            errand.persist()
            async with self._held(request, receipt, deadline, fresh=fresh) as (hold, attempt):
                seed = bytes.fromhex(receipt.seed)
                answer = await work(lambda place: _Claimed(self._seeded(seed, place, receipt.claimed), hold))
                if attempt.is_final:
                    size = await hold.complete(answer, brief)
                    if size is None and request.repeatable:
                        raise OutcomeUnknown("it was done, but its answer could not be stored: send it again")
                    self._room.add(request.caller, size or 0)
                else:
                    await self._end(request, hold, is_unused=fresh and not attempt.has_begun)
            return answer, False

    async def _claim(self, request: Request) -> tuple[Receipt, bool]:
        """Return the receipt of a request, claimed or answered; and whether nobody had one before."""
        now = self._clock()
        found = await self._receipts.receipt(request.name)
        fresh = found is None or found.purge_at * 1000 <= now
        if found is None or fresh:
            await self._room.reserve(request.caller)
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
            claim = found.model_copy(update={"attempt": found.attempt + 1, "leased_until": self._term.until})
        if not await self._receipts.swap_receipt(found, claim):
            raise InProgress
        return claim, fresh

    def _new(self, request: Request, now: int, attempt: int) -> Receipt:
        return Receipt(
            key=request.name,
            fingerprint=request.fingerprint,
            attempt=attempt,
            leased_until=self._term.until,
            seed=os.urandom(16).hex(),
            claimed=now,
            purge_at=now // 1000 + KEPT_SECONDS,
        )

    @asynccontextmanager
    async def _held(
        self, request: Request, receipt: Receipt, deadline: float, *, fresh: bool
    ) -> AsyncIterator[tuple["_LeasedReceipt", Attempt]]:
        """Hold a receipt, inside; at the end its answer is in it, or it is free to be claimed again."""
        hold, attempt = _LeasedReceipt(self._receipts, receipt, self._term, deadline), Attempt()
        token = attempts.CURRENT.set(attempt)
        try:
            async with running_in_background(partial(self._renew, hold)):
                yield hold, attempt
        except BaseException as error:
            # An error that means "not this part" says nothing of the parts before it: only the mark does.
            is_refusal = isinstance(error, GuidsvcError) and not isinstance(error, OutcomeUnknown)
            await self._end(request, hold, is_unused=fresh and is_refusal and not attempt.has_begun)
            raise
        finally:
            attempts.CURRENT.reset(token)

    async def _end(self, request: Request, hold: "_LeasedReceipt", *, is_unused: bool) -> None:
        """Forget a receipt under which nothing was begun; let whoever comes next do the request of any other again."""
        if not is_unused:
            await hold.let_go()
        elif await hold.forget():
            self._room.add(request.caller, -RECEIPT_BYTES)

    async def _renew(self, hold: "_LeasedReceipt") -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            # What has begun to renew is not cut off: the hold must know what is in the store.
            await asyncio.shield(hold.renew())


class _Term(NamedTuple):
    """How long a lease lasts: for others by the clock, and for its holder by the holder's own timer."""

    clock: Clock
    lease_clock: LeaseClock
    seconds: float

    @property
    def until(self) -> int:
        """Until when a lease lasts that is written now, in Unix milliseconds."""
        return self.clock() + round(self.seconds * 1000)

    @property
    def deadline(self) -> float:
        """Until when a lease may be used that is written from now on, by the timer."""
        return self.lease_clock.timer() + self.seconds - CLOCKS_SECONDS


class _LeasedReceipt:
    """A receipt while its request is being done."""

    def __init__(self, receipts: ReceiptRepository, receipt: Receipt, term: _Term, deadline: float) -> None:
        self._receipts = receipts
        self._receipt = receipt
        self._term = term
        self._deadline = deadline
        self._turn = asyncio.Lock()

    async def not_after(self) -> int:
        """Return until when the lease holds, as `Store.swap` takes it; renew it first if little of it is left."""
        if self._seconds_left < RENEW_SECONDS:
            await asyncio.shield(self.renew())
        if self._seconds_left <= 0:
            raise StoreUnavailable("the claim of this Idempotency-Key is over: send the request again")
        return await self._term.lease_clock.not_after(self._deadline)

    @property
    def _seconds_left(self) -> float:
        return self._deadline - self._term.lease_clock.timer()

    async def complete(self, answer: Response, brief: Brief | None) -> int | None:
        """Store the answer, or else that in brief, and return its bytes; None if it is not sure to be stored.

        An answer that is too large and has no brief form is not stored: the request is done again.
        """
        packed = await _pack(answer)
        if len(packed) > MAX_ANSWER_BYTES and brief is not None:
            packed = await _pack(brief())
        if len(packed) <= MAX_ANSWER_BYTES:
            return len(packed) if await self._put(answer=packed) else None
        await self.let_go()
        return 0

    async def renew(self) -> None:
        """Hold it for another lease."""
        deadline = self._term.deadline
        if self._receipt.answer is None and await self._put(leased_until=self._term.until):
            self._deadline = deadline

    async def let_go(self) -> None:
        """Let whoever comes next do the request again."""
        await self._put(leased_until=0)

    async def forget(self) -> bool:
        """Leave no trace of a request that did nothing; whether there is none."""
        async with self._turn:
            return await self._swap(None)

    async def _put(self, **changed: object) -> bool:
        async with self._turn:
            new = self._receipt.model_copy(update={"attempt": self._receipt.attempt + 1, **changed})
            if not await self._swap(new):
                return False
            self._receipt = new
            return True

    async def _swap(self, new: Receipt | None) -> bool:
        try:
            return await self._receipts.swap_receipt(self._receipt, new)
        except (StoreUnavailable, OutcomeUnknown) as error:
            _log.warning("receipt not written", key=self._receipt.key, error=str(error))
            return False


class _Claimed:
    """A draw of one operation, under the lease of its request."""

    def __init__(self, draw: GuidGenerator, hold: _LeasedReceipt) -> None:
        self._draw = draw
        self._hold = hold

    def __call__(self, now: int) -> str:
        return self._draw(now)

    async def not_after(self) -> int:
        return await self._hold.not_after()


async def _pack(answer: Response) -> str:
    rendered = to_json(answer)
    return pack(rendered) if len(rendered) <= MAX_ANSWER_BYTES else await asyncio.to_thread(pack, rendered)
