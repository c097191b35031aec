"""The simulation: a seed says all that happens, and what is wrong is found. `make simulation` runs it in full."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, found_at
from tests.support.backing_servers import ROOT


def simulation(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *options]
    whole = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=whole, capture_output=True, text=True, check=False)


def test_first_hundred_seeds_keep_the_guarantees() -> None:
    done = simulation("--seeds", "100")

    assert done.returncode == 0, done.stdout
    assert "violations: in 0 seeds" in done.stdout
    assert " 0 cycles" not in done.stdout, "the fence went down and up again"


def test_seed_is_reproducible_to_the_same_event() -> None:
    one, another = (simulation("--seed", "7", "--trace", PYTHONHASHSEED=seed) for seed in ("1", "2"))

    def events(text: str) -> list[str]:
        return [line for line in text.splitlines() if " events in " not in line]

    assert len(events(one.stdout)) > 100
    assert events(one.stdout) == events(another.stdout)


@pytest.mark.parametrize("name", ["no lease wait", "BEGIN leaves the value", "no wait for the fence lease"])
def test_missing_guard_is_detected(name: str) -> None:
    (mutant,) = [each for each in MUTANTS if each.name == name]

    assert found_at(mutant) is not None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_removes_existing_code(mutant: Mutant, tmp_path: Path) -> None:
    copytree(ROOT / "guidsvc", tmp_path / "guidsvc", ignore=ignore_patterns("__pycache__", "static"))
    mutant.apply(tmp_path / "guidsvc")
