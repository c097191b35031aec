"""A fair budget: an amount, such as of bytes, of which each caller leaves as much free as it has.

This dynamic threshold (Choudhury and Hahne, 1998) gives one caller alone half of the amount. Others always find some.
"""

from collections import Counter
from collections.abc import Hashable


class FairBudget:
    """A budget of `total`. While no other caller has any of it, a caller may have at least `alone`."""

    def __init__(self, total: int, *, alone: int = 0) -> None:
        self._free = total
        self._alone = alone
        self._taken: Counter[Hashable] = Counter()  # only callers that have taken some

    def take(self, amount: int, caller: Hashable) -> bool:
        """Take an amount for a caller, if the budget and the caller's share have room; return whether it did.

        The share of None, which stands for the service itself, is unlimited.
        """
        if amount > self._free or not self._is_within_share(amount, caller):
            return False
        self._add(amount, caller)
        return True

    def give_back(self, amount: int, caller: Hashable) -> None:
        """Return an amount that a caller has taken."""
        self._add(-amount, caller)

    def _is_within_share(self, amount: int, caller: Hashable) -> bool:
        if caller is None:
            return True
        is_alone = len(self._taken) == (caller in self._taken)
        return self._taken[caller] + amount <= max(self._free - amount, self._alone if is_alone else 0)

    def _add(self, amount: int, caller: Hashable) -> None:
        self._free -= amount
        self._taken[caller] += amount
        if not self._taken[caller]:
            del self._taken[caller]
