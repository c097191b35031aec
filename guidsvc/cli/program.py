"""Program name of the command line: `pdapt.py`, or `guidsvc` if the package is installed."""

import sys
from pathlib import PurePath

SCRIPT, COMMAND = "pdapt.py", "guidsvc"


def program(command: str = "") -> str:
    """Return the program name, followed by the command if given, as shown in messages and `--help`."""
    name = SCRIPT if PurePath(sys.argv[0]).name == SCRIPT else COMMAND
    return f"{name} {command}".rstrip()
