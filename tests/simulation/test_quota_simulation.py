"""The simulated world of the quota: its seeds find no violation in the code."""

import pytest

from tests.support.simulation import simulate


@pytest.mark.slow
def test_first_three_seeds_fill_but_never_exceed_the_quota() -> None:
    """`make simulation` runs 100 seeds, and `.ci/run` 25."""
    result = simulate("--quota", "--seeds", "3")

    assert result.returncode == 0, result.stdout
    assert "quota violations: in 0 seeds" in result.stdout
    for event in ("done", "refused", "StoreUnavailable", "OutcomeUnknown"):
        assert f" {event}" in result.stdout
