"""Writes of several records at once, for batches: one read, one transaction, and one wait for all of them.

Only a store whose reads need no waiting can do this. A write that needs more than that, such as a retry or a lock that
another writer holds, is left to `RecordWriter.write`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from guidsvc.domain import lifecycle
from guidsvc.domain.caller import Caller, authorize
from guidsvc.domain.events.entry import Origin
from guidsvc.domain.record import Record
from guidsvc.errors import (
    GuidsvcError,
    NotFound,
)
from guidsvc.runtime import cancel_scope
from guidsvc.services.quota import NO_QUOTA
from guidsvc.services.writes.change_audit import Outcome, action_of, is_unknown, origin_of
from guidsvc.services.writes.record_writer import RecordWriter
from guidsvc.services.writes.write_attempt import CURRENT, begin_write, take_back_write
from guidsvc.services.writes.write_chain import REJECTIONS
from guidsvc.store.contract import WOULD_BLOCK, Swap
from guidsvc.store.lease import earliest

MakeAt = Callable[[int, Record | None, int, int], Record]
"""As `Make`, for the write at a place in its group, which comes first."""


class _Planned(NamedTuple):
    """A write whose new record is known, and its place in the group."""

    place: int
    stored: Record | None
    old: Record | None
    """The stored record, unless it counts as absent."""
    new: Record


GroupResult = tuple[Record | None, Record] | Exception | None
"""The old and new record, or the error of a write; None if it was not done, and must be done alone."""


class GroupWriter(RecordWriter):
    """Writes records one by one, or in groups."""

    async def write_together(self, guids: Sequence[str], make: MakeAt, caller: Caller) -> list[GroupResult]:
        """Replace records of different GUIDs, each as `write` does, as far as that is possible together."""
        results: list[GroupResult] = [None] * len(guids)
        if self._quota is not NO_QUOTA:
            return results
        claimed_until: int | None = None
        attempt = CURRENT.get()
        if attempt is not None:
            try:
                claimed_until = await attempt.not_after()
            except GuidsvcError:
                return results
        begun = self._lease_clock.timer()
        planned = await self._plan(guids, self._locks.free_places(guids), make, caller, results)
        creations_until = await self._deadline(planned, begun)
        if creations_until is None:
            planned = [each for each in planned if each.stored is not None]
        # Locked only now: others must not wait while this caller waits for its turns, or for records it may not write.
        with self._locks.acquire_free([guids[each.place] for each in planned]) as free:
            planned = [each for each in planned if guids[each.place] in free]
            if planned and not self._is_cancelled():
                with cancel_scope.shielded():
                    creations_until = earliest(creations_until, claimed_until)
                    swaps = _swaps(planned, creations_until, claimed_until, origin_of(caller))
                    await self._swap_together(planned, swaps, caller, results)
        return results

    async def _plan(
        self, guids: Sequence[str], places: Sequence[int], make: MakeAt, caller: Caller, results: list[GroupResult]
    ) -> list[_Planned]:
        """Compute the new records at these places of the group.

        Put the results of writes that change nothing, or are rejected, into `results`.
        """
        try:
            stored_records = await self._records.get_many_for_update(
                [guids[place] for place in places], self._decoding_turns.take_own_turn
            )
        except GuidsvcError:
            return []
        if stored_records is WOULD_BLOCK:
            return []
        planned: list[_Planned] = []
        now = self._clock()
        for place in places:
            stored = stored_records.get(guids[place])
            old = None if stored is None else lifecycle.existing(stored, now)
            try:
                if old is not None and authorize(old, caller) is None:
                    raise NotFound(guids[place])
                new = make(place, old, now, stored.version if stored else 0)
            except REJECTIONS as error:
                # Tracebacks reference this frame and those below it, with all that is decoded there.
                error.__traceback__ = error.__cause__ = error.__context__ = None
                results[place] = error
            except Exception:  # noqa: BLE001
                results[place] = None  # left to `write`, which meets it again and raises it
            else:
                if new is old:
                    results[place] = old, new
                else:
                    planned.append(_Planned(place, stored, old, new))
        return planned

    async def _deadline(self, planned: Sequence[_Planned], begun: float) -> int | None:
        """Return the deadline of the creations among these writes; None if there are none, or it is not known."""
        if all(each.stored is not None for each in planned):
            return None
        try:
            return await self._lease_clock.not_after(begun + lifecycle.CREATION_SECONDS)
        except GuidsvcError:
            return None

    @staticmethod
    def _is_cancelled() -> bool:
        scope = cancel_scope.CURRENT.get()
        return scope is not None and scope.is_cancelled

    async def _swap_together(
        self, planned: Sequence[_Planned], swaps: Sequence[Swap], caller: Caller, results: list[GroupResult]
    ) -> None:
        """Swap in the store, and log each write that was done or whose outcome is unknown."""
        begin_write()
        outcomes: Sequence[bool | Exception]
        try:
            outcomes = await self._records.swap_many(swaps)
        except Exception as error:  # noqa: BLE001  # the error of each write
            outcomes = [error] * len(planned)
        except BaseException:
            for each in planned:
                self._note_swap(each, caller, "unknown")
            raise
        if not any(is_unknown(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes):
            take_back_write()
        for each, outcome in zip(planned, outcomes, strict=True):
            if isinstance(outcome, Exception):
                results[each.place] = outcome
                if is_unknown(outcome):
                    self._note_swap(each, caller, "unknown")
            elif outcome:
                results[each.place] = each.old, each.new
                self._note_swap(each, caller, "done")

    def _note_swap(self, write: _Planned, caller: Caller, outcome: Outcome) -> None:
        if self._audit is None:
            return
        stored, new = write.stored, write.new
        record = new if stored is None or not new.is_deleted else stored
        self.note(action_of(write.old, new), record, caller, outcome)


def _swaps(
    planned: Sequence[_Planned], creations_until: int | None, others_until: int | None, origin: Origin
) -> list[Swap]:
    """Return the swaps of these writes, with their deadlines."""
    return [
        Swap(stored, new, creations_until if stored is None else others_until, origin) for _, stored, _, new in planned
    ]
