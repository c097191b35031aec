"""Run shell blocks of the documentation unchanged."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.backing_servers import ROOT, START_SECONDS


def prepare(folder: Path) -> Path:
    """Write the command `guidsvc` to a folder that is in the PATH of the blocks; return that folder."""
    programs = folder / "programs"
    programs.mkdir()
    command = programs / "guidsvc"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m guidsvc "$@"\n')
    command.chmod(0o755)
    return programs


def run_block(block: str, folder: Path, variables: Mapping[str, str] | None = None) -> str:
    """Run a block in a folder that `prepare` has prepared, and return what it prints."""
    path = f"{folder / 'programs'}:{os.environ['PATH']}"
    process = subprocess.run(
        ["sh", "-e", "-c", block],
        cwd=folder,
        env=os.environ | {"PATH": path} | dict(variables or {}),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout
