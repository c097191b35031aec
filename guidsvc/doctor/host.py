"""Checks of this host: Python and its packages, file descriptors, cores, memory file systems."""

import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from guidsvc.bounded_file import read_text
from guidsvc.cache import is_private
from guidsvc.config import Settings, Size
from guidsvc.doctor.checks import Check
from guidsvc.doctor.findings import Finding, fail, ok, warn
from guidsvc.errors.plurals import counted
from guidsvc.process import file_descriptors

_METRIC_BYTES = 16 * 1024 * 1024
"""Space for the metrics that workers share."""


def checks(settings: Settings) -> Sequence[Check]:
    """Return the checks of the host."""
    found = [
        Check("host.python", partial(_python, settings)),
        Check("host.files", partial(_open_files, settings)),
        Check("host.temporary", partial(_temporary_files, settings)),
    ]
    if settings.workers > 1:
        found.append(Check("host.cores", partial(_cores, settings)))
    return found


def _python(settings: Settings) -> Finding:
    version = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    wanted = ["uvloop"] * (sys.platform != "win32" and sys.implementation.name == "cpython")
    wanted += ["hiredis"] * (not is_private(settings.cache_url))
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        return warn(
            f"{version}, without {' and '.join(missing)}: the service is slower",
            f"run `python -m pip install {' '.join(missing)}`",
        )
    return ok(version)


def _open_files(settings: Settings) -> Finding:
    limit, needed = file_descriptors.highest_limit(), settings.max_connections + file_descriptors.RESERVED
    if limit is not None and limit < needed:
        return warn(
            f"{limit} open files are allowed here, but {needed} are needed for {settings.max_connections} connections",
            f"raise the limit (ulimit -n {needed}, or LimitNOFILE={needed}), or lower --max-connections",
        )
    return ok(f"{'unlimited' if limit is None else limit} open files, {needed} needed")


def _temporary_files(settings: Settings) -> Finding:
    """Compare the space for temporary files with what batches may need, and for shared metrics."""
    needed = settings.temp_bytes * settings.workers + (_METRIC_BYTES if settings.workers > 1 else 0)
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return fail(f"{folder} is not writable to this user", "set TMPDIR to a folder that this user can write")
    if free < needed:
        return warn(
            f"{folder} has {Size(free)} free, but large batches may need {Size(needed)}",
            "free some space, set TMPDIR to another folder, or lower --temp-bytes",
        )
    return ok(f"{folder} has {Size(free)} free, {Size(needed)} may be needed")


def _cores(settings: Settings) -> Finding:
    count = cores()
    if settings.workers > count:
        return warn(
            f"{settings.workers} workers share {counted(count, 'core')}, and slow each other down",
            f"use --workers {count}, or give the service more cores",
        )
    return ok(f"{counted(settings.workers, 'worker')} on {counted(count, 'core')}")


def cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of cores that this process may use, at most that of the limit of its container (cgroup v2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = read_text(limit).split()
        if quota != "max":
            return min(count, math.ceil(int(quota) / int(period)))
    return count
