"""Packages of npm that `make test-browser` installs into the virtual environment, as tests/browser pins them."""

import subprocess
import sys
from pathlib import Path

_MODULES = Path(sys.prefix) / "browser" / "node_modules"


def package(name: str) -> Path:
    """Return the folder of a package."""
    folder = _MODULES / name
    assert folder.is_dir(), f"{folder} is missing: make test-browser"
    return folder


def run(folder: Path, script: Path, *arguments: str) -> str:
    """Run a script in a folder with Node.js, without a warning, and return what it prints."""
    node = Path(sys.prefix) / "bin" / "node"
    command = [str(node), str(script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout + done.stderr
    assert "warn" not in printed.lower().replace("0 warnings", ""), printed
    return done.stdout
