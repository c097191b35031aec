"""The selection of records that a list query asks for."""

from dataclasses import dataclass

from guidsvc.domain.commands import ListQuery
from guidsvc.domain.record import MAX_TIME, Record


@dataclass(frozen=True)
class Selection:
    """Which records a list holds, in terms that a store can search by; times are Unix seconds."""

    owner: str | None = None
    """Of this owner only, if there is one."""
    user: str | None = None
    """Of this user only, if there is one."""
    expire_from: int = 0
    """That expire then, or later."""
    expire_before: int = MAX_TIME + 1
    """That expire before then."""
    kept_at: int = 0
    """That are kept beyond then: what is past its retention is in no list."""
    excluding: frozenset[str] = frozenset()
    """But for these GUIDs."""

    def holds(self, record: Record) -> bool:
        """Whether the record is one of them."""
        timely = self.expire_from <= record.expire < self.expire_before and record.purge_at > self.kept_at
        theirs = self.user in {None, record.user} and self.owner in {None, record.owner}
        return timely and theirs and record.guid not in self.excluding

    @property
    def by_expire(self) -> bool:
        """Whether the expiry is bounded at all."""
        return self.expire_from > 0 or self.expire_before <= MAX_TIME


def selection(query: ListQuery, now: int, owner: str | None = None) -> Selection:
    """Say which records a query asks for at `now`, of an owner, or of all."""
    seconds = now // 1000
    low = 0 if query.expires_after is None else query.expires_after + 1
    high = MAX_TIME + 1 if query.expires_before is None else query.expires_before
    if query.state == "live":
        low = max(low, seconds + 1)
    elif query.state == "expired":
        high = min(high, seconds + 1)
    return Selection(owner=owner, user=query.user, expire_from=low, expire_before=high, kept_at=seconds)
