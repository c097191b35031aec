"""Hooks of pytest that save the suite time: the order of its tests, its garbage, and where its files are."""

import gc
import os
import shutil
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 * 1024**3
"""Free memory that the files of a run need at most, many times over."""
_ROOT_VARIABLE = "PYTEST_DEBUG_TEMPROOT"


def pytest_configure() -> None:
    """Have `tmp_path` in memory where the system allows it: on a disk, tests mostly wait for it to sync."""
    if _is_usable(_MEMORY):
        os.environ.setdefault(_ROOT_VARIABLE, str(_MEMORY))


def _is_usable(folder: Path) -> bool:
    """Whether programs can be run from a folder, and it has room. A container's has neither, unless asked for."""
    return (
        os.access(folder, os.W_OK)
        and not os.statvfs(folder).f_flag & os.ST_NOEXEC
        and shutil.disk_usage(folder).free >= _ROOM_BYTES
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with its share of the slow tests, so that no worker is left with one at the end.

    At first pytest-xdist gives each worker an equal, contiguous part of the tests.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    bounds = [len(quick) * worker // workers for worker in range(workers + 1)]
    items[:] = [
        item
        for worker in range(workers)
        for item in (*slow[worker::workers], *quick[bounds[worker] : bounds[worker + 1]])
    ]


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the modules and the tests, which stay until the end."""
    gc.collect()
    gc.freeze()
