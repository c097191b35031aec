"""`python pdapt.py` as a newcomer meets it: what it says when something is missing or unknown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.backing_servers import ROOT, START_SECONDS

FIRST_WORDS = [[], ["--help"], ["--port", "0"], ["keys", "list"], ["backup", "x"], ["healthcheck"]]


@pytest.mark.parametrize("words", FIRST_WORDS, ids=" ".join)
def test_a_python_without_the_packages_says_how_to_install_them(tmp_path: Path, words: list[str]) -> None:
    bare = [sys.executable, "-S", "-E", str(ROOT / "pdapt.py"), *words]
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True, timeout=START_SECONDS, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"pdapt\.py: the package \w+ is not installed .*\n", done.stderr), done.stderr
    assert "make install" in done.stderr
    assert "pip install -r requirements.txt" in done.stderr
