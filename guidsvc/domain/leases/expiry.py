"""The expiry of a life that is counted from now. `now` is in Unix milliseconds."""

from collections.abc import Callable
from typing import TypeVar

from guidsvc.domain.commands import WriteCommand
from guidsvc.domain.leases.limits import LifeLimits, expire_after

Draw = Callable[[int], int]
"""Returns a random number below its argument."""
_Change = TypeVar("_Change", bound=WriteCommand)


def dated(change: _Change, now: int, created: int, limits: LifeLimits, draw: Draw) -> _Change:
    """Return the change with the expiry from its `ttl` and `spread`; a change without `ttl` is unchanged.

    The spread ends at the limits of the record. `created` is when that was created, in Unix milliseconds.
    """
    if change.ttl is None:
        return change
    spread = 0 if change.spread is None else draw(change.spread + 1)
    least, expire = expire_after(now, change.ttl), expire_after(now, change.ttl + spread)
    max_expire = limits.max_expire(now, created)
    if max_expire is not None:
        expire = max(least, min(expire, max_expire))
    return change.model_copy(update={"expire": expire})
