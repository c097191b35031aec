"""The schedule of what time does to a record: warnings before its expiry, the expiry, and the purge.

The store keeps two numbers beside each record: the `stage`, which is how much of this was appended to the log for the
current version, and `due`, the Unix second at which the next step is due. Each change of a record starts anew.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from guidsvc.domain.events.entry import EXPIRING, RENEWED, Entry, Kind, expired, expiring, purged
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
"""How long after its second a step is done. Hosts whose clocks differ by less never serve what the log calls expired.
"""
MAX_DELAY_SECONDS = 5
"""How late a warning may be for which the record was not scheduled, because the leads were other ones then."""


class Step(NamedTuple):
    """What is to be done about a record at one time."""

    entries: tuple[Entry, ...]
    stage: int
    due: int | None
    """When the next step is due, in Unix seconds. None: the record is to be deleted."""


@dataclass(frozen=True)
class EventPolicy:
    """What the log holds: `all`; `changes`, which leaves out renewals; or nothing (`off`)."""

    mode: EventMode = "all"
    warn_before: tuple[int, ...] = (604_800, 86_400)
    """How many seconds before the expiry a warning is due: at most MAX_WARNINGS, in any order."""

    @cached_property
    def is_on(self) -> bool:
        """Whether there is a log."""
        return self.mode != "off"

    @cached_property
    def _longest_first(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.warn_before), reverse=True))

    def logs(self, kind: Kind) -> bool:
        """Whether the log holds entries of this kind."""
        return self.mode == "all" or (self.mode == "changes" and kind != RENEWED)

    def exclusion(self, kind: Kind) -> str | None:
        """Return the setting by which the log has no entries of this kind; None if it has them."""
        if not self.logs(kind):
            return f"--events {self.mode}"
        return "an empty --warn-before" if kind == EXPIRING and not self.warn_before else None

    def leads(self, record: Record) -> tuple[int, ...]:
        """Return the leads of the warnings of a record, in seconds, longest first.

        A lead counts if it is at most half of the life that the last change gave. If none does, a single warning is due
        when a third of that life is left.
        """
        life = record.expire - record.updated // 1000
        leads = [lead for lead in self._longest_first if 2 * lead <= life]
        if leads or not self.warn_before or life < SHORTEST_WARNED_SECONDS:
            return tuple(leads)
        return (life // 3,)

    def first(self, record: Record) -> tuple[int, int]:
        """Return the stage and the due time of a version that was just written."""
        if not self.is_on or record.expire * 1000 <= record.updated:  # revoked, or a tombstone
            return EXPIRED_STAGE, record.purge_at
        leads = self.leads(record)
        return 0, record.expire - leads[0] if leads else record.expire

    def step(self, record: Record, stage: int, due: int, now: int) -> Step:
        """Return what is due by `now`, in Unix milliseconds and already less the margin, for a record at this stage.

        `due` is when this step was to be done. A warning whose record has expired meanwhile is left out, also within
        the margin. Of several warnings that are due, only the last one is appended. So after a pause, no warning comes
        that is void.
        """
        seconds = now // 1000
        if seconds < record.expire:
            return self._warning(record, stage, due, now)
        entries: tuple[Entry, ...] = () if stage >= EXPIRED_STAGE or not self.is_on else (expired(record),)
        if seconds < record.purge_at:
            return Step(entries, EXPIRED_STAGE, record.purge_at)
        if self.is_on and stage < PURGED_STAGE and not record.is_deleted:
            entries += (purged(record, now),)
        return Step(entries, PURGED_STAGE, None)

    def _warning(self, record: Record, stage: int, due: int, now: int) -> Step:
        """Return the warning that is due, and schedule the next one.

        If the leads have changed since the record was scheduled, its due time is that of none of them, or of another
        one. Then only a warning whose time has just come is appended: no lead is appended late or twice.
        """
        times, seconds = [record.expire - lead for lead in self.leads(record)], now // 1000
        reached = sum(time <= seconds for time in times)
        is_scheduled = stage < len(times) and times[stage] == due
        next_due = times[reached] if reached < len(times) else record.expire
        if stage >= EXPIRED_STAGE or not reached or seconds + MARGIN_SECONDS >= record.expire:
            return Step((), stage if stage >= EXPIRED_STAGE else reached, next_due)
        earliest = due if is_scheduled else max(due, seconds - MAX_DELAY_SECONDS)
        time = times[reached - 1]
        entries = (expiring(record, record.expire - time, now),) if time >= earliest else ()
        return Step(entries, reached, next_due)


DEFAULT_POLICY = EventPolicy()
"""All events, with the default warnings."""
