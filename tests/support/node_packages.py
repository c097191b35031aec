"""npm packages, which `make test-browser` installs into the virtual environment in the versions of tests/browser."""

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
    """Run a script in a folder with Node.js; fail on a warning, and return its output."""
    node = Path(sys.prefix) / "bin" / "node"
    command = [str(node), str(script), *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    printed = process.stdout + process.stderr
    assert "warn" not in printed.lower().replace("0 warnings", ""), printed
    return process.stdout
