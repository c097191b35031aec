"""The expiry of a life that is counted from now. `now` is in Unix milliseconds."""

from collections.abc import Callable
from typing import TypeVar

from guidsvc.domain.commands import PutCommand
from guidsvc.domain.leases.limits import expire_after

Draw = Callable[[int], int]
"""Returns a random number below its argument."""
_Change = TypeVar("_Change", bound=PutCommand)


def dated(change: _Change, now: int, draw: Draw) -> _Change:
    """Return the change with the expiry that its `ttl` and `spread` ask for; a change without `ttl` is unchanged."""
    if change.ttl is None:
        return change
    spread = 0 if change.spread is None else draw(change.spread + 1)
    return change.model_copy(update={"expire": expire_after(now, change.ttl + spread)})
