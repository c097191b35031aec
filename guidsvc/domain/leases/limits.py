"""Limits of a life: from now, and from the creation. Times are in Unix seconds, `now` and `created` in milliseconds."""

from typing import NamedTuple

from guidsvc.domain.record import MAX_TIME


def expire_after(now: int, seconds: int) -> int:
    """Return the first whole second that is at least `seconds` away, in Unix seconds: a lease is a least."""
    return min(-(-now // 1000) + seconds, MAX_TIME)


class LifeLimits(NamedTuple):
    """The maximum lifetime that a write may give a record, in seconds; 0 is no limit."""

    max_ttl: int = 0
    """From the time of the write."""
    max_life: int = 0
    """From the creation of the record."""

    def tightened(self, other: "LifeLimits") -> "LifeLimits":
        """Return the tighter of both limits."""
        pairs = zip(self, other, strict=True)
        return LifeLimits(*(min(filter(None, pair), default=0) for pair in pairs))

    def sliding_end(self, now: int) -> int:
        """Return the latest expiry that `max_ttl` permits now. It moves on with time."""
        return expire_after(now, self.max_ttl) if self.max_ttl else MAX_TIME

    def final_end(self, created: int) -> int:
        """Return the latest expiry that `max_life` permits at any time."""
        return expire_after(created, self.max_life) if self.max_life else MAX_TIME

    def max_expire(self, now: int, created: int) -> int | None:
        """Return the latest expiry that a write may give a record now; None if there is no limit."""
        if not (self.max_ttl or self.max_life):
            return None
        return min(self.sliding_end(now), self.final_end(created))


UNLIMITED = LifeLimits()
