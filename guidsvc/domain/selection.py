"""The filter of a list query, in terms that a store can search by."""

from collections.abc import Sequence
from dataclasses import dataclass

from guidsvc.domain.commands import ListQuery
from guidsvc.domain.record import MAX_TIME, Record


@dataclass(frozen=True)
class Selection:
    """A filter of records. Times are Unix seconds."""

    owner: str | None = None
    """Match this owner only; None matches all owners."""
    user: str | None = None
    """Match this user only; None matches all users."""
    expire_from: int = 0
    """Earliest expiry, inclusive."""
    expire_before: int = MAX_TIME + 1
    """Latest expiry, exclusive."""
    kept_at: int = 0
    """Match records whose `purge_at` is later than this: lists omit records past their retention."""
    excluding: frozenset[str] = frozenset()
    """GUIDs to exclude."""
    queue_name: str | None = None
    """The caller on whose behalf a store searches: callers take turns. It is not part of the filter."""

    def matching(self, records: Sequence[Record]) -> list[Record]:
        """Return the records that match the filter."""
        user, owner, excluding = self.user, self.owner, self.excluding
        first, end, kept_at = self.expire_from, self.expire_before, self.kept_at
        return [
            record
            for record in records
            if first <= record.expire < end
            and record.purge_at > kept_at
            and (user is None or record.user == user)
            and (owner is None or record.owner == owner)
            and record.guid not in excluding
        ]

    def holds(self, record: Record) -> bool:
        """Whether the record matches the filter."""
        return bool(self.matching([record]))

    @property
    def turn(self) -> str | None:
        """The caller whose turn a search takes: of the service's own searches, the owner."""
        return self.owner if self.queue_name is None else self.queue_name

    @property
    def by_expire(self) -> bool:
        """Whether the filter restricts the expiry."""
        return self.expire_from > 0 or self.expire_before <= MAX_TIME


def selection(query: ListQuery, now: int, owner: str | None = None, queue_name: str | None = None) -> Selection:
    """Return the filter of a query at `now`, in Unix milliseconds, for one owner, or for all if None."""
    seconds = now // 1000
    low = 0 if query.expires_after is None else _bounded(query.expires_after.at(now) + 1)
    high = MAX_TIME + 1 if query.expires_before is None else _bounded(query.expires_before.at(now))
    if query.state == "live":
        low = max(low, seconds + 1)
    elif query.state == "expired":
        high = min(high, seconds + 1)
    return Selection(
        owner=owner, user=query.user, expire_from=low, expire_before=high, kept_at=seconds, queue_name=queue_name
    )


def _bounded(seconds: int) -> int:
    return max(0, min(seconds, MAX_TIME + 1))
