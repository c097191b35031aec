"""The name under which the command line was started: `pdapt.py`, or `guidsvc` where the package is installed."""

import sys
from pathlib import PurePath

SCRIPT, COMMAND = "pdapt.py", "guidsvc"


def program(command: str = "") -> str:
    """Return the name, with a command behind it, as messages and `--help` show them."""
    name = SCRIPT if PurePath(sys.argv[0]).name == SCRIPT else COMMAND
    return f"{name} {command}".rstrip()
