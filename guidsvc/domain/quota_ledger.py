"""The ledger of an owner: which of its records are about to come to life, and for how many more there is room.

A record that comes to life is reserved here before it is written, so that whoever counts the owner's live records
counts those too that cannot be seen yet. A count is good for a while: until then, and as long as there is room left,
nobody need count again. Nothing here waits, reads a clock or touches a store.
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
"""A reservation that nobody takes back is over after this: far beyond the time that any write to a store may take."""
ROOM_MS = 5_000
"""A count is good for so long: what was changed past the ledgers, or while there was no quota, is found by then."""

_ENTRIES: TypeAdapter[dict[str, int]] = TypeAdapter(dict[str, int])


def _check_entries(text: str) -> str:
    _ENTRIES.validate_json(text)
    return text


class QuotaLedger(BaseModel):
    """What is kept of an owner. Immutable; `version` rises with every change of it, and it is never deleted.

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
        """Return how many more records may come to life without a count."""
        is_good = self.quota == quota and self.room_until - ROOM_MS <= now < self.room_until
        return self.room if is_good else 0


class ReservationRequest(NamedTuple):
    """That a record may come to life, under the name of a reservation; `until` is when it expires as it is, or 0."""

    name: str
    guid: str
    until: int

    @classmethod
    def of(cls, guid: str, old: Record | None) -> "ReservationRequest":
        """Make a wish for one write of a GUID."""
        return cls(f"{guid}{secrets.token_hex(8)}", guid, 0 if old is None else old.expire)

    def is_live(self, now: int) -> bool:
        """Whether the record is live as it is, and so has its place."""
        return now < self.until * 1000


def living(owner: str, now: int, without: frozenset[str] = frozenset()) -> Selection:
    """Select what is live of an owner, but for some GUIDs."""
    return Selection(owner=owner, expire_from=now // 1000 + 1, excluding=without)


class LedgerUpdate:
    """What becomes of wishes by a ledger, and by a count where that leaves too little room: the next page of it.

    What has `ended` is taken back. Who has a place keeps it, and the others get one in the order in which they came.
    """

    def __init__(
        self,
        old: QuotaLedger | None,
        wishes: Sequence[ReservationRequest],
        *,
        ended: Collection[str],
        quota: int,
        now: int,
    ) -> None:
        self._old = old
        self._quota = quota
        self._now = now
        self._entries = {} if old is None else _ENTRIES.validate_json(old.entries)
        self._held = {name: until for name, until in self._entries.items() if until > now and name not in ended}
        self._reserved = frozenset(name[:GUID_CHARACTERS] for name in self._held)
        self._settled = [wish for wish in wishes if wish.is_live(now)]
        self._newcomers = [wish for wish in wishes if not wish.is_live(now)]
        self._room, self._room_until = (0, 0) if old is None else (old.room_for(quota, now), old.room_until)
        self._placed: frozenset[str] = frozenset()
        self._is_full = False

    @property
    def has_room(self) -> bool:
        """Whether all can be admitted without a count."""
        return self._room >= len(self._newcomers)

    def others(self, owner: str) -> Selection:
        """Select what is to be counted: live records whose GUIDs are neither reserved nor settled.

        A newcomer is counted too: another process may have made its record since it was read as absent or expired.
        """
        return living(owner, self._now, without=self._reserved | {wish.guid for wish in self._settled})

    def count(self, others: int) -> None:
        """Take note that there are so many others."""
        settled = {wish.guid for wish in self._settled}
        placed = self._reserved | settled
        room = self._quota - others - len(placed)
        # A settled record may have been changed since it was read, and then its reservation took a place that is not
        # there: so what is reserved has a place only if all of it fits.
        self._placed = placed if room >= 0 else frozenset()
        self._room = max(room, 0)
        self._room_until = self._now + ROOM_MS
        self._is_full = others + len(settled) >= self._quota

    def _admit(self) -> tuple[list[ReservationRequest], int]:
        """Return the wishes that have a place, and the room that is left.

        A GUID that was counted as reserved has its place, whoever writes it: there is one record of it, or none.
        """
        admitted, room, placed = list(self._settled), self._room, set(self._placed)
        for wish in self._newcomers:
            if wish.guid not in placed:
                if not room:
                    continue
                room -= 1
                placed.add(wish.guid)
            admitted.append(wish)
        return admitted, room

    def after(self, owner: str) -> QuotaLedger | None:
        """Return the ledger as it is to be; None if it can stay as it is."""
        admitted, room = self._admit()
        entries = self._held | {wish.name: self._now + LEASE_MS for wish in admitted}
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
    def answers(self) -> dict[str, bool | Exception]:
        """The answer to each wish, by its name: whether it is granted, or that it cannot be, whoever does what."""
        refused: bool | Exception = QuotaExceeded(self._quota) if self._is_full else False
        no = {wish.name: refused for wish in self._newcomers}
        return no | {wish.name: True for wish in self._admit()[0]}
