"""Programs that may not be installed, such as kubectl: without one, tests that would run it return early.

`.ci/run` installs some of them. Tests that only read files need none.
"""

import os
import shutil
import subprocess
from pathlib import Path

_SECONDS = 300  # so that only a program that hangs is stopped, however busy the machine


def find(name: str) -> str | None:
    """Return the path of a program, or None if it is not installed. Debian has servers in /usr/sbin."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def run(program: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS
    )
