"""The schedule of a record: warnings before its expiry, the expiry, and the purge.

The store keeps two numbers with each record: the `stage`, the number of steps that were appended to the log for the
current version, and `due`, the Unix second at which the next step is due. Each change of a record resets both.

A step is executed MARGIN_SECONDS after its `due`. This margin is meant for the expiry and the purge. A warning must
come at its second by the clock, so its `due` is earlier by the margin.

Without a log the schedule is the same, and nothing is appended. So later steps are appended once the log is on.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from guidsvc.domain.events.entry import EXPIRING, RENEWED, Change, Entry, Kind, expired, expiring, purged
from guidsvc.domain.record import Record

EventMode = Literal["all", "changes", "off"]
MAX_WARNINGS = 4
EXPIRED_STAGE = 5
"""The stage of a record whose expiry is in the log. Stage n below it: n of its warnings are, or are too late."""
PURGED_STAGE = 6
"""The stage of a record whose purge is in the log."""
SHORTEST_WARNED_SECONDS = 30
"""A life shorter than this has no warning, unless a lead fits it."""
MARGIN_SECONDS = 1
"""Delay of the append of an expiry or a purge after its second. Hosts whose clocks differ by less never serve what the
log calls expired.
"""
MAX_DELAY_SECONDS = 5
"""How late a warning may be for which the record was not scheduled, because the leads were other ones then."""


class Step(NamedTuple):
    """The result of a step of the schedule of a record."""

    entries: tuple[Entry, ...]
    stage: int
    due: int | None
    """When the next step is due, in Unix seconds. None: the record must be deleted."""


@dataclass(frozen=True)
class EventPolicy:
    """Which events the log has: `all`; `changes`, which omits renewals; or none (`off`)."""

    mode: EventMode = "all"
    warn_before: tuple[int, ...] = (604_800, 86_400)
    """The seconds before the expiry at which warnings are due: at most MAX_WARNINGS, in any order."""

    @cached_property
    def is_on(self) -> bool:
        """Whether there is a log."""
        return self.mode != "off"

    @cached_property
    def _longest_first(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.warn_before), reverse=True))

    def logs(self, kind: Kind) -> bool:
        """Whether the log holds all entries of this kind."""
        return self.mode == "all" or (self.mode == "changes" and kind != RENEWED)

    def logged(self, change: Change) -> Change:
        """Return those entries of a change that the log holds.

        The renewal of what had expired is always one of them: for readers of the log, the GUID would stay expired.
        """
        if self.mode == "all" or (self.is_on and change.owed):
            return change
        return Change(self._logged(change.owed), self._logged(change.entries))

    def exclusion(self, kind: Kind) -> str | None:
        """Return the setting by which the log never has entries of this kind; None if it can have them."""
        if not self.is_on:
            return f"--events {self.mode}"
        return "an empty --warn-before" if kind == EXPIRING and not self.warn_before else None

    def leads(self, record: Record) -> tuple[int, ...]:
        """Return the leads of the warnings of a record, in seconds, longest first."""
        return self._leads(record.expire - record.updated // 1000)

    def first(self, record: Record) -> tuple[int, int]:
        """Return the stage and the due time of a version that was just written."""
        if record.expire * 1000 <= record.updated:  # revoked, or a tombstone
            return EXPIRED_STAGE, record.purge_at
        return 0, record.expire - self.first_offset(record.expire - record.updated // 1000)

    def first_offset(self, life: int) -> int:
        """Return the seconds before the expiry at which the first step is due, for a lifetime in seconds."""
        leads = self._leads(life)
        return leads[0] + MARGIN_SECONDS if leads else 0

    def step(self, record: Record, stage: int, due: int, now: int) -> Step:
        """Return the step that is due by `now`, in Unix milliseconds minus the margin, for a record at this stage.

        `due` is when this step was to be done. A warning whose record has expired meanwhile is left out. Of several
        warnings that are due, only the last one is appended. So after a pause, no outdated warning is appended.
        """
        seconds = now // 1000
        if seconds < record.expire:
            step = self._warning(record, stage, due, now + MARGIN_SECONDS * 1000)
            return step._replace(entries=self._logged(step.entries))
        entries: tuple[Entry, ...] = () if stage >= EXPIRED_STAGE else (expired(record),)
        if seconds < record.purge_at:
            return Step(self._logged(entries), EXPIRED_STAGE, record.purge_at)
        if stage < PURGED_STAGE and not record.is_deleted:
            entries += (purged(record, now + MARGIN_SECONDS * 1000),)
        return Step(self._logged(entries), PURGED_STAGE, None)

    def _logged(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(entry for entry in entries if self.logs(entry.kind))

    def _leads(self, life: int) -> tuple[int, ...]:
        """Return the leads of the warnings of a record to which its last change gave such a life.

        A lead counts if it is at most half of the life. If none does, a single warning is due when a third of the life
        is left.
        """
        leads = [lead for lead in self._longest_first if 2 * lead <= life]
        if leads or not self.warn_before or life < SHORTEST_WARNED_SECONDS:
            return tuple(leads)
        return (life // 3,)

    def _warning(self, record: Record, stage: int, due: int, clock: int) -> Step:
        """Return the warning that is due, and schedule the next one. `clock` is the time without a margin.

        If the leads have changed since the record was scheduled, its due time is that of none of them, or of another
        one. Then only a warning whose time has just come is appended: no lead is appended late or twice.
        """
        times, seconds = [record.expire - lead for lead in self.leads(record)], clock // 1000
        planned = due + MARGIN_SECONDS
        reached = sum(time <= seconds for time in times)
        is_scheduled = stage < len(times) and times[stage] == planned
        next_due = times[reached] - MARGIN_SECONDS if reached < len(times) else record.expire
        if stage >= EXPIRED_STAGE or not reached or seconds >= record.expire:
            return Step((), stage if stage >= EXPIRED_STAGE else reached, next_due)
        earliest = planned if is_scheduled else max(planned, seconds - MAX_DELAY_SECONDS)
        time = times[reached - 1]
        entries = (expiring(record, record.expire - time, clock),) if time >= earliest else ()
        return Step(entries, reached, next_due)


DEFAULT_POLICY = EventPolicy()
"""All events, with the default warnings."""
