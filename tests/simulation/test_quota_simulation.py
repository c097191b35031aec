"""The simulated world of the quota: its seeds find no violation in the code."""

from tests.support.simulation import simulate


def test_first_twelve_seeds_fill_but_never_exceed_the_quota() -> None:
    result = simulate("--quota", "--seeds", "12")

    assert result.returncode == 0, result.stdout
    assert "quota violations: in 0 seeds" in result.stdout
    for event in ("done", "refused", "StoreUnavailable", "OutcomeUnknown"):
        assert f" {event}" in result.stdout
