"""Chains of writes: the writes that wait for a GUID are executed together with the write that has the turn.

Only a store that commits a chain as a whole, such as SQLite, is given chains.

    plan      compute the record of each write from that of the write before it
    swap      execute the swaps in order: each takes effect only if the one before did
    settle    a write is done if its swap was. A write that changes nothing or is rejected is done if all swaps before
              it were. All others wait for their turn again

So a GUID that many clients write needs one commit, and one wait for the other caches, for all of them together. One
after the other, they would wait for each other longer and longer: a commit and the round trips to Redis take several
iterations of the event loop, which are long under load.

No client learns of a record that is not stored: all results are set after the swaps. Each write keeps its version, its
event, its audit line, and the context of its own request.
"""

from collections.abc import Sequence
from typing import NamedTuple

from guidsvc.domain import lifecycle
from guidsvc.domain.caller import Caller, authorize
from guidsvc.domain.leases.errors import LifeLimitReached
from guidsvc.domain.record import Record
from guidsvc.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    Expired,
    GuidsvcError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    PreconditionRequired,
)
from guidsvc.runtime.cancel_scope import checkpoint
from guidsvc.runtime.clock import Clock
from guidsvc.runtime.fairness.decoding_turns import DecodingTurns, MergeBudget
from guidsvc.services.quota import NO_QUOTA, Quota
from guidsvc.services.writes.change_audit import ChangeAudit, action_of, is_unknown, origin_of
from guidsvc.services.writes.write_attempt import CURRENT
from guidsvc.services.writes.write_turns import QueuedWrite, WriteTurns
from guidsvc.store.contract import RecordRepository, Swap

LONGEST = 64
"""Maximum number of writes that a write executes together with its own."""
REJECTIONS = Expired, InvalidRequest, LifeLimitReached, NotFound, PreconditionFailed, PreconditionRequired
"""The errors of a write that depend on its record alone."""


Outcome = bool | Exception
"""The result of a swap, or its error."""


class Link(NamedTuple):
    """A write of a chain, the record that it finds, and the one that it leaves; `error` if it is rejected."""

    write: QueuedWrite
    old: Record
    new: Record
    error: GuidsvcError | None = None

    @property
    def has_swap(self) -> bool:
        """Whether it changes the record."""
        return self.new is not self.old


class WriteChains:
    """Plans and executes the writes that wait for a GUID, with the write that has the turn."""

    def __init__(
        self,
        records: RecordRepository,
        turns: WriteTurns,
        decoding_turns: DecodingTurns,
        *,
        clock: Clock,
        quota: Quota,
        audit: ChangeAudit | None,
    ) -> None:
        self._records = records
        self._turns = turns
        self._decoding_turns = decoding_turns
        self._clock = clock
        self._quota = quota
        self._audit = audit

    async def plan(self, old: Record | None, new: Record) -> list[Link]:
        """Take the writes that can follow the one that replaces `old` by `new`. The caller must execute them.

        Between those that merge large metadata, other requests run, and a request of the chain may end.

        Take none if the store does not commit them together: the last ones would be executed long after their time
        limit, and after the end of their clients or their keys.
        """
        links: list[Link] = []
        if old is None or self._turns.first(new.guid) is None or not self._records.commits_chains:
            return links
        try:
            await self._plan(new, links)
            checkpoint()
        except BaseException:
            self._turns.put_back(new.guid, [link.write for link in links])
            raise
        ended = next((place for place, link in enumerate(links) if link.write.has_ended), len(links))
        self._turns.put_back(new.guid, [link.write for link in links[ended:]])
        return links[:ended]

    async def _plan(self, new: Record, links: list[Link]) -> None:
        budget = MergeBudget(self._decoding_turns)
        while len(links) < LONGEST and (write := self._turns.first(new.guid)) is not None:
            if write.merged_bytes:
                await budget.spend(new.metadata, write.merged_bytes)
                if write is not self._turns.first(new.guid):  # its request has ended meanwhile
                    continue
            link = self._link(write, new)
            if link is None:
                break
            self._turns.take(new.guid)
            links.append(link)
            new = link.new

    async def execute(self, swap: Swap, caller: Caller, links: Sequence[Link]) -> bool:
        """Execute the swap of a caller as `RecordRepository.swap` does, and then the planned writes."""
        outcomes: Sequence[Outcome]
        swaps = [swap, *(self._swap(each) for each in links if each.has_swap)]
        try:
            outcomes = await self._records.swap_chain(swaps)
        except (ClientDisconnected, DeadlineExceeded) as error:  # of this request alone, before anything was sent
            outcomes = [error, *[False] * (len(swaps) - 1)]
        except Exception as error:  # noqa: BLE001  # the error of each write
            outcomes = [error] * (1 + len(links))
        except BaseException:
            self._settle(swap, caller, links, [OutcomeUnknown("the write was interrupted")] * (1 + len(links)))
            raise
        self._settle(swap, caller, links, outcomes)
        own = outcomes[0]
        try:
            if isinstance(own, Exception):
                raise own
            return own
        finally:
            del own, outcomes  # otherwise the error and its traceback would form a cycle

    def _link(self, write: QueuedWrite, old: Record) -> Link | None:
        """Compute the record that a write leaves; None if it needs more than a swap, and so a turn of its own.

        That is the case if it makes a record live, has a deadline, as each write of a request with an Idempotency-Key
        has, or needs a place under the quota.
        """
        now = self._clock()
        if write.while_live or write.context.get(CURRENT) is not None or not lifecycle.is_live(old, now):
            return None
        try:
            if authorize(old, write.caller) is None:
                raise NotFound(old.guid)
            new = write.context.run(write.make, old, now, old.version)
        except REJECTIONS as error:
            # Tracebacks reference this frame and those below it, with all that is decoded there.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return Link(write, old, old, error)
        except Exception:  # noqa: BLE001  # it meets the error again in its own turn, and raises it
            return None
        if self._quota is not NO_QUOTA and new.expire > old.expire:
            return None
        return Link(write, old, new)

    def _swap(self, link: Link) -> Swap:
        """Return the swap of a planned write, which belongs to no attempt at an idempotent request."""
        write = link.write
        return Swap(link.old, link.new, None, write.context.run(origin_of, write.caller))

    def _settle(self, swap: Swap, caller: Caller, links: Sequence[Link], outcomes: Sequence[Outcome]) -> None:
        """Log the writes, and set the results of the planned ones, given the outcomes of all swaps."""
        own, *others = outcomes
        self._note(swap.old, swap.new, caller, own)
        are_done, remaining = own is True, iter(others)
        undone: list[QueuedWrite] = []
        for link in links:
            outcome: Outcome = next(remaining) if link.has_swap else are_done
            are_done = are_done and outcome is True
            if outcome is False:
                undone.append(link.write)
                continue
            if link.has_swap:
                if outcome is True and link.new.is_deleted:
                    self._quota.note_deletion(link.new.owner)
                link.write.context.run(self._note, link.old, link.new, link.write.caller, outcome)
            link.write.settle((link.old, link.new), outcome if isinstance(outcome, Exception) else link.error)
        self._turns.put_back(swap.guid, undone)

    def _note(self, old: Record | None, new: Record | None, caller: Caller, outcome: Outcome) -> None:
        """Log a write in the audit log that was done, or whose outcome is unknown."""
        if self._audit is None or old is None or new is None or outcome is False:
            return
        if outcome is True or is_unknown(outcome):
            record = old if new.is_deleted else new
            self._audit(action_of(old, new), record, caller, "done" if outcome is True else "unknown")
