"""The reservation ledger of an owner: pending creations and renewals, and the remaining quota.

A record is reserved here before a write makes it live, so that concurrent counts of live records include it. A count
is reused for ROOM_MS while room is left. Nothing here waits, reads a clock or uses a store.
"""

import secrets
from collections.abc import Collection, Sequence
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import to_json

from guidsvc.domain.record import GUID_CHARACTERS, Milliseconds, Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import QuotaExceeded

LEASE_MS = 30_000
"""Lifetime of a reservation that is not released: far longer than any write to a store may take."""
ROOM_MS = 5_000
"""Validity of a count. It bounds how long changes that bypass the ledgers, or precede the quota, go unnoticed."""

_ENTRIES: TypeAdapter[dict[str, int]] = TypeAdapter(dict[str, int])


def _check_entries(text: str) -> str:
    _ENTRIES.validate_json(text)
    return text


class QuotaLedger(BaseModel):
    """The ledger of an owner. Immutable; `version` rises with every change, and the ledger is never deleted.

    `entries` is JSON: until when each reservation holds, in Unix milliseconds. Until `room_until`, and for the same
    `quota`, `room` more records may come to life, whatever happens to those that are there.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    owner: str
    version: Annotated[int, Field(ge=1)]
    entries: Annotated[str, AfterValidator(_check_entries)]
    quota: Annotated[int, Field(ge=0)]
    room: Annotated[int, Field(ge=0)]
    room_until: Milliseconds

    def room_for(self, quota: int, now: int) -> int:
        """Return how many more records may become live without a new count."""
        is_good = self.quota == quota and self.room_until - ROOM_MS <= now < self.room_until
        return self.room if is_good else 0


class ReservationRequest(NamedTuple):
    """A request to reserve quota for one record, by reservation name.

    `until` is the current expiry in Unix seconds, or 0 if the record is new.
    """

    name: str
    guid: str
    until: int

    @classmethod
    def of(cls, guid: str, old: Record | None) -> "ReservationRequest":
        """Make a request for one write of a GUID."""
        return cls(f"{guid}{secrets.token_hex(8)}", guid, 0 if old is None else old.expire)

    def is_live(self, now: int) -> bool:
        """Whether the record is live already, and so counts against the quota."""
        return now < self.until * 1000


def living(owner: str, now: int, without: frozenset[str] = frozenset()) -> Selection:
    """Select the live records of an owner, without some GUIDs."""
    return Selection(owner=owner, expire_from=now // 1000 + 1, excluding=without)


class LedgerUpdate:
    """One update of a ledger: grants reservation requests, after a count if the ledger has too little room.

    Reservations in `ended` are released. Live records and reserved GUIDs keep their place; the others are admitted in
    order of arrival.
    """

    def __init__(
        self,
        old: QuotaLedger | None,
        requests: Sequence[ReservationRequest],
        *,
        ended: Collection[str],
        quota: int,
        now: int,
    ) -> None:
        self._old = old
        self._quota = quota
        self._now = now
        self._entries = {} if old is None else _ENTRIES.validate_json(old.entries)
        self._active = {name: until for name, until in self._entries.items() if until > now and name not in ended}
        self._reserved = frozenset(name[:GUID_CHARACTERS] for name in self._active)
        self._live_requests = [request for request in requests if request.is_live(now)]
        self._new_requests = [request for request in requests if not request.is_live(now)]
        self._room, self._room_until = (0, 0) if old is None else (old.room_for(quota, now), old.room_until)
        self._counted_guids: frozenset[str] = frozenset()
        self._is_full = False

    @property
    def has_room(self) -> bool:
        """Whether all requests can be granted without a count."""
        return self._room >= len(self._new_requests)

    def others(self, owner: str) -> Selection:
        """Select the records to count: live ones that are neither reserved nor requested as live.

        Newcomers are included: another process may have written the record since it was read as absent or expired.
        """
        return living(owner, self._now, without=self._reserved | {request.guid for request in self._live_requests})

    def count(self, others: int) -> None:
        """Set the number of records that `others` selects."""
        live_guids = {request.guid for request in self._live_requests}
        counted_guids = self._reserved | live_guids
        room = self._quota - others - len(counted_guids)
        # A settled record may have changed since it was read, and then its reservation exceeds the quota. So reserved
        # records keep their place only if all of them fit.
        self._counted_guids = counted_guids if room >= 0 else frozenset()
        self._room = max(room, 0)
        self._room_until = self._now + ROOM_MS
        self._is_full = others + len(live_guids) >= self._quota

    def _grant(self) -> tuple[list[ReservationRequest], int]:
        """Return the granted requests, and the remaining room.

        A GUID that was counted as reserved needs no second place, whichever request writes it: it has one record.
        """
        granted, room, counted_guids = list(self._live_requests), self._room, set(self._counted_guids)
        for request in self._new_requests:
            if request.guid not in counted_guids:
                if not room:
                    continue
                room -= 1
                counted_guids.add(request.guid)
            granted.append(request)
        return granted, room

    def after(self, owner: str) -> QuotaLedger | None:
        """Return the new ledger; None if it does not change."""
        granted, room = self._grant()
        entries = self._active | {request.name: self._now + LEASE_MS for request in granted}
        if entries == self._entries:
            return None
        return QuotaLedger(
            owner=owner,
            version=1 if self._old is None else self._old.version + 1,
            entries=to_json(entries).decode(),
            quota=self._quota,
            room=room,
            room_until=self._room_until,
        )

    @property
    def results(self) -> dict[str, bool | Exception]:
        """The answer to each request, by name: True if granted, False to retry, QuotaExceeded if none can be."""
        rejection: bool | Exception = QuotaExceeded(self._quota) if self._is_full else False
        rejections = {request.name: rejection for request in self._new_requests}
        return rejections | {request.name: True for request in self._grant()[0]}
