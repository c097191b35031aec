"""Idempotency keys: a request with a key is executed once, and its response is replayed to repetitions.

A request first claims its receipt in the store, with a lease and a seed. Its GUIDs are generated from the seed, so a
repetition generates the same ones and finds the records that exist already. The response is stored in the receipt. If
the process dies, the lease expires, and the next request with the key executes it again from the same seed. This is
safe only if the request is repeatable: it only reads, and creates under generated GUIDs. Any other request gets
OutcomeUnknown, because others may have changed the GUIDs that it names.

    receipt of the key       result
    none                     claim it and execute the request
    different fingerprint    IdempotencyMismatch: the key was used for another request
    response stored          replay the response; first execute again the parts of it that have an unknown outcome
    lease valid              InProgress
    lease expired            repeatable: claim it and execute again from the same seed; otherwise OutcomeUnknown

A process may be suspended until its lease expires and another executes the request, or responds with OutcomeUnknown.
So the store rejects all writes of the request after the end of the lease, as last renewed. Before a request gets
OutcomeUnknown, the receipt is changed, so that the suspended process can no longer renew its lease.

A receipt belongs to an owner, a kind of credential and a set of scopes: responses are never replayed to callers with
other rights. A request that fails before its first write, for whatever reason, leaves no receipt. Once claimed, a
request continues even if its client disconnects. If its caller loses its access on the way, the response with the
rejected parts is stored too. Receipts are limited in bytes, per owner and in total
(`guidsvc.services.receipts.quota`); at the limit, new requests are rejected at once.

A batch stores the results that are known even if others are not: a creation whose outcome the store did not confirm.
The next request with the key claims the receipt again, executes only these creations, from the same seed, and stores
the response with their results. So nothing that was known to be done is executed a second time. Unknown operations on
GUIDs that the request names stay unknown.

A repeatable request is not acknowledged unless its response was stored. Otherwise its client could delete the created
record, and a repetition would create it again. So a response that is too large to store needs a shorter form that
always fits.

Unavailable says that nothing was changed, which a repetition can say of itself alone. So if the receipt shows an
earlier attempt, and the repetition cannot be executed, for example because the store rejects writes, it raises
OutcomeUnknown. A stored response with unknown parts is repeated as it is.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import structlog
from pydantic_core import to_json

from guidsvc.domain.guid_generator import GuidGenerator
from guidsvc.domain.receipt import Receipt, stored_size
from guidsvc.errors import IdempotencyMismatch, InProgress, OutcomeUnknown, Unavailable
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock
from guidsvc.services.receipts.lease import LeasedReceipt, LeaseTerm, ShorterForms
from guidsvc.services.receipts.quota import OWNER_BYTES, RECEIPT_BYTES, TOTAL_BYTES, ReceiptRoom, prefix_of
from guidsvc.services.receipts.stored_response import WAIT_SECONDS, StoredResponseReader
from guidsvc.services.writes import write_attempt
from guidsvc.services.writes.write_attempt import Attempt
from guidsvc.store.contract import ReceiptRepository
from guidsvc.store.lease import LeaseClock

_log = structlog.get_logger(__name__)

KEPT_SECONDS = 24 * 3600
LEASE_SECONDS = 10.0
"""Time after which a request whose process died may be executed again. Running requests renew their lease."""

GuidFactory = Callable[[int], GuidGenerator]
"""Returns the generator for the operation at this position in a request: the same GUIDs at each repetition."""
RequestBody = Callable[[GuidFactory | None], Awaitable[bytes]]
"""Executes a request, and returns its response as text; the factory supplies GUIDs that a repetition draws again."""
Resume = Callable[[bytes], Awaitable[RequestBody | None]]
"""Returns what executes again the parts of a request whose outcome its response leaves unknown; None if there are none.

It returns the response with all results, known and new."""


class Request(NamedTuple):
    """The identity of a request: its owner, its key, and a digest of its content."""

    caller: str
    key: str
    fingerprint: str
    repeatable: bool = True
    """Whether the request only reads, and creates under generated GUIDs."""
    is_creation: bool = False
    """Whether the request creates one record under a generated GUID, and does nothing else."""
    authority: tuple[str, ...] = ()
    """The kind of credential and the scopes of the caller."""
    queue_name: str | None = None
    """The name by which callers take turns; None for the owner."""

    @property
    def name(self) -> str:
        """The key of its receipt in the store."""
        return prefix_of(self.caller) + sha256(to_json([self.caller, self.authority, self.key])).hexdigest()


class Idempotency:
    """The executor of idempotent requests.

    `seeded` makes a GuidGenerator from a seed, the position of an operation, and a time in Unix milliseconds.
    """

    def __init__(  # noqa: PLR0913  # its collaborators, by name
        self,
        receipts: ReceiptRepository,
        lease_clock: LeaseClock,
        *,
        clock: Clock,
        seeded: Callable[[bytes, int, int], GuidGenerator],
        lease_seconds: float = LEASE_SECONDS,
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
        self._term = LeaseTerm(clock, lease_clock, lease_seconds)

    async def once(
        self, request: Request, work: RequestBody, shorter: ShorterForms | None = None, resume: Resume | None = None
    ) -> tuple[bytes, bool]:
        """Return the response to a request, and whether it is a replay. It is opaque text, stored as it is.

        Exceptions of `work` propagate and are not stored. Raise IdempotencyMismatch, InProgress, OutcomeUnknown or
        ReceiptsFull as described above.
        """
        with cancel_scope.shielded():  # no cancellation between a write and its receipt
            deadline = self._term.deadline
            receipt, fresh = await self._claim(request)
            if receipt.answer is None:
                with self._doubt(request, None if fresh else receipt):
                    return await self._execute(request, receipt, deadline, work, shorter, resume, fresh=fresh), False
            answer = await self._replay(request, receipt.answer)
            unknown = None if resume is None else await resume(answer)
            if unknown is None:
                return answer, True
            deadline = self._term.deadline
            try:
                receipt = await self._claim_again(receipt)
                return await self._execute(request, receipt, deadline, unknown, shorter, resume), False
            except Unavailable as error:
                _log.info("unknown results not executed again, response repeated", key=request.name, error=str(error))
                return answer, True

    async def _execute(  # noqa: PLR0913  # what `once` has found out
        self,
        request: Request,
        receipt: Receipt,
        deadline: float,
        work: RequestBody,
        shorter: ShorterForms | None,
        resume: Resume | None,
        *,
        fresh: bool = False,
    ) -> bytes:
        """Execute a request whose receipt is claimed, store its response, and return it."""
        cancel_scope.persist()
        async with self._leased(request, receipt, deadline, fresh=fresh) as (lease, attempt):
            seed = bytes.fromhex(receipt.seed)
            answer = await work(lambda index: self._seeded(seed, index, receipt.claimed))
            if attempt.should_store:
                is_final = resume is None or await resume(answer) is None
                await self._store(request, lease, answer, shorter, is_final=is_final)
            else:
                await self._end(request, lease, is_unused=fresh and not attempt.has_begun)
        return answer

    @contextmanager
    def _doubt(self, request: Request, earlier: Receipt | None) -> Generator[None]:
        """Raise OutcomeUnknown in place of Unavailable if there was an earlier attempt, which left this receipt."""
        try:
            yield
        except Unavailable as error:
            if earlier is None:
                raise
            guid: str | None = None
            if request.is_creation:
                guid = self._seeded(bytes.fromhex(earlier.seed), 0, earlier.claimed)(earlier.claimed)
            message = f"an earlier attempt may have been executed, and this one cannot be: {error}"
            raise OutcomeUnknown(message, guid=guid, is_repeatable=True) from error

    async def _store(
        self, request: Request, lease: LeasedReceipt, answer: bytes, shorter: ShorterForms | None, *, is_final: bool
    ) -> None:
        """Store a response; raise OutcomeUnknown if that fails and the request must be repeated for that reason."""
        earlier_bytes = lease.stored_bytes
        size_bytes = await lease.complete(answer, shorter, is_final=is_final)
        if size_bytes is not None:
            self._room.add(request.caller, stored_size(size_bytes) - stored_size(earlier_bytes))
        elif request.repeatable or earlier_bytes:
            message = "the request was done, but its answer could not be stored; send it again"
            raise OutcomeUnknown(message, is_repeatable=True)

    async def _replay(self, request: Request, answer: str) -> bytes:
        queue_name = request.caller if request.queue_name is None else request.queue_name
        return await self._stored.read(queue_name, answer)

    async def _claim(self, request: Request) -> tuple[Receipt, bool]:
        """Return the receipt of a request, claimed or with a response, and whether it is new."""
        now = self._clock()
        stored = await self._receipts.get(request.name)
        fresh = stored is None or stored.purge_at * 1000 <= now
        if stored is None or fresh:
            await self._room.reserve(request.caller)
            claim = self._new(request, now, attempt=1 if stored is None else stored.attempt + 1)
        elif stored.fingerprint != request.fingerprint:
            raise IdempotencyMismatch
        elif stored.answer is not None:
            return stored, False
        elif stored.leased_until <= now and not request.repeatable:
            with self._doubt(request, stored):
                await self._end_claim(stored)
            raise OutcomeUnknown("the first request with this key was begun, but its answer was not stored")
        else:
            with self._doubt(request, stored):
                return await self._claim_again(stored), False
        if not await self._receipts.swap(stored, claim):
            raise InProgress
        return claim, fresh

    async def _end_claim(self, stored: Receipt) -> None:
        """End the expired claim of an earlier attempt for good; raise InProgress if it may have been renewed."""
        if not stored.leased_until:
            return
        ended = stored.model_copy(update={"attempt": stored.attempt + 1, "leased_until": 0})
        try:
            has_ended = await self._receipts.swap(stored, ended)
        except OutcomeUnknown as error:
            raise InProgress from error
        if not has_ended:
            raise InProgress

    async def _claim_again(self, stored: Receipt) -> Receipt:
        """Return the receipt, claimed from an earlier attempt; raise InProgress if that has not ended."""
        if stored.leased_until > self._clock():
            raise InProgress
        claim = stored.model_copy(update={"attempt": stored.attempt + 1, "leased_until": self._term.until})
        if not await self._receipts.swap(stored, claim):
            raise InProgress
        return claim

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
    async def _leased(
        self, request: Request, receipt: Receipt, deadline: float, *, fresh: bool
    ) -> AsyncIterator[tuple[LeasedReceipt, Attempt]]:
        """Hold and renew the lease of a receipt inside the block; release or delete the receipt on an exception."""
        lease = LeasedReceipt(self._receipts, receipt, self._term, deadline)
        attempt = Attempt(lease.not_after)
        token = write_attempt.CURRENT.set(attempt)
        try:
            async with running_in_background(partial(self._renew, lease)):
                yield lease, attempt
        except BaseException:
            # Whether anything was written, only the attempt's mark tells, and not the class of the error.
            await self._end(request, lease, is_unused=fresh and not attempt.has_begun)
            raise
        finally:
            write_attempt.CURRENT.reset(token)

    async def _end(self, request: Request, lease: LeasedReceipt, *, is_unused: bool) -> None:
        """Delete an unused receipt; release any other, so that the next request can claim it."""
        if not is_unused:
            await lease.release()
        elif await lease.delete():
            self._room.add(request.caller, -RECEIPT_BYTES)

    async def _renew(self, lease: LeasedReceipt) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            # A renewal that was sent must not be cancelled: the lease must know the receipt that is in the store.
            await asyncio.shield(lease.renew())
