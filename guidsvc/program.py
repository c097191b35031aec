"""The name of the command line in messages: `pdapt.py`, or `guidsvc` if the package is installed."""

import shlex
import sys
from pathlib import Path, PurePath

SCRIPT, COMMAND = "pdapt.py", "guidsvc"


def program(command: str = "") -> str:
    """Return the program name, followed by the command if given, as shown in messages and `--help`."""
    name = SCRIPT if PurePath(sys.argv[0]).name == SCRIPT else COMMAND
    return f"{name} {command}".rstrip()


def command_line(*words: str) -> str:
    """Return a command to paste into a shell that runs this program with these arguments, on the same Python."""
    match PurePath(sys.argv[0]).name:
        case "pdapt.py":
            start = [_python(), sys.argv[0]]
        case "__main__.py":
            start = [_python(), "-m", COMMAND]
        case _:
            start = [COMMAND]
    return shlex.join([*start, *words])


def _python() -> str:
    """Return the path of the interpreter, relative if it is inside the working directory."""
    try:
        return str(PurePath(sys.executable).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return sys.executable
