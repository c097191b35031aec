"""`python pdapt.py` as a newcomer meets it: what it says when something is missing or unknown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import guidsvc
from guidsvc.cli.main import COMMANDS
from tests.support.backing_servers import ROOT, START_SECONDS, pdapt

FIRST_WORDS = [[], ["--help"], ["--port", "0"], ["keys", "list"], ["backup", "x"], ["healthcheck"]]


@pytest.mark.parametrize("words", FIRST_WORDS, ids=" ".join)
def test_a_python_without_the_packages_says_how_to_install_them(tmp_path: Path, words: list[str]) -> None:
    bare = [sys.executable, "-S", "-E", str(ROOT / "pdapt.py"), *words]
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True, timeout=START_SECONDS, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"pdapt\.py: the package \w+ is not installed .*\n", done.stderr), done.stderr
    assert "make install" in done.stderr
    assert "pip install -r requirements.txt" in done.stderr


@pytest.mark.parametrize("word", ["server", "key", "help"])
def test_an_unknown_command_is_answered_with_those_that_there_are(tmp_path: Path, word: str) -> None:
    refused = pdapt(tmp_path, word)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"pdapt.py: {word!r} is no command: use {', '.join(COMMANDS)};")
    assert refused.stderr.count("\n") == 1


def test_the_version_is_printed(tmp_path: Path) -> None:
    printed = pdapt(tmp_path, "--version")

    assert (printed.returncode, printed.stdout, printed.stderr) == (0, f"guidsvc {guidsvc.__version__}\n", "")
