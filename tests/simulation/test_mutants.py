"""Mutants of all simulated worlds: each removes existing code, and a missing guard is found."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from tests.simulation import mutants, quota_mutants
from tests.simulation.events import mutants as event_mutants
from tests.simulation.mutants import Mutant
from tests.support.backing_servers import ROOT

WORLDS = (
    (mutants.MUTANTS, mutants.found_at, ("no lease wait", "BEGIN leaves the value")),
    (quota_mutants.MUTANTS, quota_mutants.found_at, ("reserved places are free",)),
    (event_mutants.MUTANTS, event_mutants.found_at, ("a write does not check the stage",)),
)
"""The mutants of each world, the function that runs them, and the names of the mutants found here.

`make simulation` finds all.
"""
ALL = [mutant for table, _, _ in WORLDS for mutant in table]
FOUND = [
    pytest.param(mutant, found_at, id=name)
    for table, found_at, names in WORLDS
    for name in names
    for mutant in table
    if mutant.name == name
]


def test_each_found_mutant_is_in_a_table() -> None:
    assert len(FOUND) == sum(len(names) for _, _, names in WORLDS)


@pytest.mark.slow
@pytest.mark.parametrize(("mutant", "found_at"), FOUND)
def test_missing_guard_is_detected(mutant: Mutant, found_at: Callable[[Mutant], int | None]) -> None:
    assert found_at(mutant) is not None


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_each_mutant_removes_existing_code(mutant: Mutant, tmp_path: Path) -> None:
    copytree(ROOT / "guidsvc", tmp_path / "guidsvc", ignore=ignore_patterns("__pycache__", "static"))
    mutant.apply(tmp_path / "guidsvc")
