"""Programs that a machine may lack, such as kubectl: where one is not installed, its tests have nothing to run.

`.ci/run` installs some of them. What tests read in files needs none.
"""

import os
import shutil
import subprocess
from pathlib import Path

_SECONDS = 60


def find(name: str) -> str | None:
    """Return where a program is; None if it is not installed. Debian has servers in /usr/sbin."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def run(program: str, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that was found to its end."""
    return subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS)
