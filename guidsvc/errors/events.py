"""Errors of the event log and its feed."""

from typing import Literal

from guidsvc.errors.base import GuidsvcError

GoneReason = Literal["trimmed", "rewound", "another-store"]
_REASONS: dict[GoneReason, str] = {
    "trimmed": "events after this cursor were removed, by age or by the size of the log, or are damaged",
    "rewound": "the store was restored from a backup, and what this cursor has seen is not in it",
    "another-store": "this cursor belongs to another store, or is from before a time with --events off",
}


class EventsTrimmed(GuidsvcError):
    """Entries in the range of a read were removed from the log."""


class ForgedCursor(GuidsvcError):
    """A cursor says that it is of this store, which never made it."""


class EventsGone(GuidsvcError):
    """The feed cannot continue at a cursor. It can continue at the cursors `oldest` and `now`."""

    def __init__(self, reason: GoneReason, *, oldest: str, now: str) -> None:
        super().__init__(
            f"The feed cannot continue here: {_REASONS[reason]}. "
            "Save `now` of this error, read all GUIDs again, then follow with `now` as `cursor`. Or follow with "
            "`oldest` as `cursor`, and miss the events before it."
        )
        self.reason = reason
        self.oldest = oldest
        self.now = now


class TooManyStreams(GuidsvcError):
    """Too many streams of events are open in this process: `most`, of this caller if `is_own`, or of all callers."""

    def __init__(self, most: int, *, is_own: bool) -> None:
        whose = "You have" if is_own else "The service has"
        noun = "stream" if most == 1 else "streams"
        super().__init__(
            f"{whose} {most} open {noun} of events, which is the maximum{' of a caller' if is_own else ''}; close one, "
            "or retry later."
        )
