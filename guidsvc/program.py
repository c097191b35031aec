"""The name of the command line in messages: `pdapt.py`, or `guidsvc` if the package is installed."""

import os
import shlex
import sys
from pathlib import Path, PurePath

SCRIPT, COMMAND = "pdapt.py", "guidsvc"


def program(command: str = "") -> str:
    """Return the program name, followed by the command if given, as shown in messages and `--help`."""
    name = SCRIPT if PurePath(sys.argv[0]).name == SCRIPT else COMMAND
    return f"{name} {command}".rstrip()


def runnable(command: str = "") -> str:
    """Return a command to run, for texts that other hosts may read: it names no path outside the working directory."""
    if program() != SCRIPT:
        return program(command)
    python = PurePath(_python())
    is_inside = not python.is_absolute() and ".." not in python.parts
    return f"{python if is_inside else 'python'} {program(command)}"


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


def install_command(*requirements: str) -> str:
    """Return how to install parts of a checkout for this Python. No package index has them."""
    return f"in the checkout of guidsvc, run: {shlex.join([sys.executable, '-m', 'pip', 'install', *requirements])}"


def make_hint(*words: str) -> str:
    """Return how to pass these arguments to `make run`, in parentheses, if make has started this program."""
    is_made = "MAKELEVEL" in os.environ and program() == SCRIPT
    return f' (make run ARGS="{" ".join(words)}")' if is_made else ""


def _python() -> str:
    """Return the path of the interpreter, relative if it is inside the working directory."""
    try:
        return str(PurePath(sys.executable).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return sys.executable
