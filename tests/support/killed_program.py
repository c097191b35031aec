"""Programs that are killed in the middle of a function, as by `kill -9` or the OOM killer."""

import signal
import subprocess
import sys

from tests.support.backing_servers import ROOT

KILL = """
import os, signal
own_id = os.getpid()
os.getpid = lambda: 7
def kill(*_, **__): os.kill(own_id, signal.SIGKILL)
"""
"""`kill` ends the program. Its process id is always the same, as in a container."""


def run_until_killed(code: str, *arguments: str) -> None:
    """Run a program, which must call `kill`."""
    command = [sys.executable, "-c", KILL + code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
