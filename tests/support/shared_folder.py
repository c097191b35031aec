"""Folders that all workers of pytest-xdist share: the first that needs one fills it, while the others wait."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return the folder of this name, which is filled once in a run. Tests must not change it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = base / f"{name}.{os.getpid()}"
            new.mkdir()
            fill(new)
            folder.symlink_to(new)
    return folder.resolve()
