"""Run the simulation by its command."""

import os
import subprocess
import sys

from tests.support.backing_servers import ROOT


def simulate(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m tests.simulation` with these options and environment variables."""
    command = [sys.executable, "-m", "tests.simulation", *options]
    environment = os.environ | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
