"""The time at which a lease should be renewed."""

import pytest

from guidsvc.domain.leases.limits import expire_after
from guidsvc.domain.leases.renewal import renew_at
from guidsvc.domain.record import Record
from tests.support.factories import record

BEGIN = 1_795_000_000


def written(ttl: int, offset_ms: int) -> Record:
    """Return a record that was written so long after a whole second, with this `ttl`."""
    now = BEGIN * 1000 + offset_ms
    return record(now, expire=expire_after(now, ttl))


@pytest.mark.parametrize("ttl", [2, 3, 4, 5, 15, 600])
def test_renewal_is_due_after_half_to_three_quarters_of_a_life(ttl: int) -> None:
    for offset_ms in range(1000):
        stored = written(ttl, offset_ms)
        due = renew_at(stored)
        assert due is not None
        assert 0.5 <= (due * 1000 - stored.updated) / (stored.expire * 1000 - stored.updated) <= 0.75, offset_ms


def test_lease_of_a_second_is_due_one_second_before_it_ends() -> None:
    for offset_ms in range(1000):
        stored = written(1, offset_ms)
        assert renew_at(stored) == stored.expire - 1
