"""The simulation of the event log finds no violation in the code."""

import pytest

from tests.support.simulation import simulate


@pytest.mark.slow
def test_first_two_seeds_find_no_violation() -> None:
    done = simulate("--events", "--seeds", "2")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "event violations: in 0 seeds" in done.stdout
    for happened in ("cut off", "entries", "expired", "purged", "read", "writes"):
        assert f" {happened}" in done.stdout
