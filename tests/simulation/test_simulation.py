"""The simulation: a seed determines all events, and violations are found. `make simulation` runs it in full."""

import pytest

from tests.support.simulation import simulate


@pytest.mark.slow
def test_first_eight_seeds_keep_the_guarantees() -> None:
    """`make simulation` runs 2,000 seeds, and `.ci/run` 500."""
    result = simulate("--seeds", "8")

    assert result.returncode == 0, result.stdout
    assert "violations: in 0 seeds" in result.stdout
    assert " 0 cycles" not in result.stdout, "the fence went down and up again"


def test_seed_is_reproducible_to_the_same_event() -> None:
    first, second = (simulate("--seed", "7", "--trace", PYTHONHASHSEED=seed) for seed in ("1", "2"))

    def events(text: str) -> list[str]:
        return [line for line in text.splitlines() if " events in " not in line]

    assert len(events(first.stdout)) > 100
    assert events(first.stdout) == events(second.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["--quota", "--events"])
def test_seed_of_another_world_is_reproducible(world: str) -> None:
    first, second = (simulate(world, "--seed", "3", "--trace").stdout.splitlines() for _ in range(2))

    assert len(first) > 10
    assert [line for line in first if " seeds in " not in line] == [line for line in second if " seeds in " not in line]
    assert first[-2].partition(" s: ")[2] == second[-2].partition(" s: ")[2]
