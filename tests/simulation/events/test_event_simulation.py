"""The simulation of the event log finds no violation in the code."""

import pytest

from tests.support.simulation import simulate


@pytest.mark.slow
def test_first_seed_finds_no_violation() -> None:
    """`make simulation` runs 50 seeds, and `.ci/run` 12."""
    done = simulate("--events", "--seeds", "1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "event violations: in 0 seeds" in done.stdout
    for happened in ("cut off", "entries", "expired", "purged", "read", "writes"):
        assert f" {happened}" in done.stdout
