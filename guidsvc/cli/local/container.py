"""The flags of the service in a container, where a command inherits its environment, but not its flags."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from guidsvc.cli.commands import COMMANDS, SERVE

FIRST_PROCESS = Path("/proc/1/cmdline")
_SERVICE_PROGRAMS = {"pdapt.py", "guidsvc"}


def with_container_flags(flags: Sequence[str], first_process: Path = FIRST_PROCESS) -> list[str]:
    """Return the flags of the service in this container, followed by these flags, which override them."""
    return [*container_flags(first_process), *flags]


def container_flags(first_process: Path) -> list[str]:
    """Return the flags of the service if it is the first process of this container, else an empty list."""
    try:
        words = first_process.read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    except OSError:
        return []
    started = next((at for at, word in enumerate(words) if PurePath(word).name in _SERVICE_PROGRAMS), len(words))
    first, *others = words[started + 1 :] or [""]
    if first in COMMANDS:
        return []  # the container runs a command, and no service
    return others if first == SERVE else words[started + 1 :]
