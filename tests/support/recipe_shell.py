"""Runs shell blocks of the documentation as they stand, in a folder that looks like a clone."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.backing_servers import ROOT, START_SECONDS


def prepare(folder: Path) -> Path:
    """Put pdapt.py and the Python of its virtual environment into a folder; return a folder for other programs."""
    programs = folder / "programs"
    programs.mkdir()
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / "pdapt.py").symlink_to(ROOT / "pdapt.py")
    return programs


def run_block(block: str, folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Run a block in a folder that `prepare` has prepared, and return what it prints."""
    path = f"{folder / 'programs'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", block],
        cwd=folder,
        env=os.environ | {"PATH": path} | dict(more or {}),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
