"""The simulated world of the quota: its seeds find nothing in the code."""

from tests.support.simulation import simulate


def test_first_twelve_seeds_fill_but_never_exceed_the_quota() -> None:
    done = simulate("--quota", "--seeds", "12")

    assert done.returncode == 0, done.stdout
    assert "quota violations: in 0 seeds" in done.stdout
    for happened in ("done", "refused", "StoreUnavailable", "OutcomeUnknown"):
        assert f" {happened}" in done.stdout
