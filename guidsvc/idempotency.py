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
"""

import asyncio
import os
import time
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
from guidsvc.rules import ClaimedDraw, Clock, Draw
from guidsvc.store import Receipts
from guidsvc.store.lease import LeaseClock, Timer

KEPT_SECONDS = 24 * 3600
LEASE_SECONDS = 10.0
"""A request whose process died can be done again after so long; one that is still being done renews its lease."""
RENEW_SECONDS = 4.0
"""A lease with less time left is renewed before a creation: a store may need some seconds for the creation."""
CLOCKS_SECONDS = 1.0
"""The difference that is allowed between the clocks of hosts: a lease ends earlier by this for whoever holds it."""
MAX_ANSWER_BYTES = 12 * 1024 * 1024
"""A larger answer, as JSON, is not kept (a document of MongoDB has at most 16 MiB): as if its process had died."""

_log = structlog.get_logger(__name__)


class Reply(NamedTuple):
    """What a client is answered."""

    status: int
    headers: dict[str, str]
    body: str | None


Draws = Callable[[int], ClaimedDraw]
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
        timer: Timer = time.monotonic,
    ) -> None:
        self._receipts = receipts
        self._clock = clock
        self._seeded = seeded
        self._lease_seconds = lease_seconds
        self._term = _Term(clock, LeaseClock(receipts, timer=timer), lease_seconds)

    async def once(self, request: Request, work: Work) -> tuple[Reply, bool]:
        """Return the answer to a request, and whether it was given before.

        What `work` raises is raised, and not kept. IdempotencyMismatch and InProgress as it is told above.
        """
        with errand.kept():  # nothing is cut off between what is done and its receipt
            deadline = self._term.deadline
            receipt, fresh = await self._claim(request)
            if receipt.answer is not None:
                return _read(receipt.answer), True
            async with self._held(receipt, deadline, fresh=fresh) as hold:
                seed = bytes.fromhex(receipt.seed)
                answer = await work(lambda place: _Claimed(self._seeded(seed, place, receipt.claimed), hold))
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
    async def _held(self, receipt: Receipt, deadline: float, *, fresh: bool) -> AsyncIterator["_Hold"]:
        """Hold a receipt, inside; at the end its answer is in it, or it is free to be claimed again."""
        hold = _Hold(self._receipts, receipt, self._term, deadline)
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


class _Hold:
    """A receipt while its request is being done. That it cannot be written is no reason to fail the request."""

    def __init__(self, receipts: Receipts, receipt: Receipt, term: _Term, deadline: float) -> None:
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

    async def complete(self, answer: Reply) -> None:
        """Keep the answer; one that is too large leaves the request to be done again."""
        rendered = to_json(answer)
        if len(rendered) <= MAX_ANSWER_BYTES:
            await self._put(answer=rendered.decode())
        else:
            await self.let_go()

    async def renew(self) -> None:
        """Hold it for another lease."""
        deadline = self._term.deadline
        if self._receipt.answer is None and await self._put(leased_until=self._term.until):
            self._deadline = deadline

    async def let_go(self) -> None:
        """Let whoever comes next do the request again."""
        await self._put(leased_until=0)

    async def forget(self) -> None:
        """Leave no trace of a request that did nothing."""
        async with self._turn:
            await self._swap(None)

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

    def __init__(self, draw: Draw, hold: _Hold) -> None:
        self._draw = draw
        self._hold = hold

    def __call__(self, now: int) -> str:
        return self._draw(now)

    async def not_after(self) -> int:
        return await self._hold.not_after()


def _read(text: str) -> Reply:
    try:
        return _REPLIES.validate_json(text)
    except ValidationError as error:
        raise CorruptRecord(f"an answer that was kept is none: {error}") from error
