"""The simulated world of the quota: its seeds find nothing in the code, and something in the code without a guard."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from tests.simulation.mutants import Mutant
from tests.simulation.quota_mutants import MUTANTS, found_at
from tests.support.backing_servers import ROOT


def simulation(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", "--quota", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_first_twelve_seeds_fill_but_never_exceed_the_quota() -> None:
    done = simulation("--seeds", "12")

    assert done.returncode == 0, done.stdout
    assert "quota violations: in 0 seeds" in done.stdout
    for happened in ("done", "refused", "StoreUnavailable", "OutcomeUnknown"):
        assert f" {happened}" in done.stdout


def test_seed_is_reproducible_to_the_same_event() -> None:
    one, another = (simulation("--seed", "3", "--trace").stdout.splitlines() for _ in range(2))

    assert len(one) > 10
    assert [line for line in one if " seeds in " not in line] == [line for line in another if " seeds in " not in line]
    assert one[-2].partition(" s: ")[2] == another[-2].partition(" s: ")[2]


@pytest.mark.parametrize("name", ["wished GUIDs are not counted", "reserved places are free"])
def test_missing_guard_is_detected(name: str) -> None:
    (mutant,) = [each for each in MUTANTS if each.name == name]

    assert found_at(mutant) is not None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_removes_existing_code(mutant: Mutant, tmp_path: Path) -> None:
    copytree(ROOT / "guidsvc", tmp_path / "guidsvc", ignore=ignore_patterns("__pycache__", "static"))
    mutant.apply(tmp_path / "guidsvc")
