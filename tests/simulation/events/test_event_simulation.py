"""The simulated world of the event log: its seeds find nothing in the code."""

from tests.support.simulation import simulate


def test_first_four_seeds_keep_the_log_whole() -> None:
    done = simulate("--events", "--seeds", "4")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "event violations: in 0 seeds" in done.stdout
    for happened in ("cut off", "entries", "expired", "purged", "read", "writes"):
        assert f" {happened}" in done.stdout
