"""Files that were deleted while processes have them open: Linux still shows them in `/proc/PID/fd`."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROCESSES = Path("/proc")


def open_copies(path: Path) -> Iterator[tuple[int, Path]]:
    """Yield processes that have a deleted file open, and the path at which each of them still has its content.

    Processes of other users are left out if the system does not show their files.
    """
    deleted = f"{path} (deleted)"
    for pid in _pids():
        with suppress(OSError):  # the process has ended, or belongs to another user
            for link in (PROCESSES / str(pid) / "fd").iterdir():
                if _target(link) == deleted:
                    yield pid, link
                    break


def _pids() -> list[int]:
    with suppress(OSError):
        return [int(each.name) for each in PROCESSES.iterdir() if each.name.isdecimal()]
    return []


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115  # no path: it ends with " (deleted)"
    except OSError:
        return None
