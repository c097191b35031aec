"""The metrics of a supervisor: it serves no request, and counts the deaths of its workers in a separate file."""

import os
from contextlib import closing
from pathlib import Path

from guidsvc.monitoring import metric_files
from guidsvc.telemetry.state_catalog import WORKER_DEATHS

_KEY = metric_files.key_of(WORKER_DEATHS.name, WORKER_DEATHS.name, {}, WORKER_DEATHS.meaning)


class WorkerDeaths:
    """The number of workers that exited unexpectedly, shared with the workers by the folder of their metrics."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, folder: Path) -> None:
        """Write the number into the folder; raise OSError if that fails, as on a full disk.

        The file is opened each time: a folder that was removed is created again.
        """
        with closing(metric_files.open_file(folder / f"counter_{os.getpid()}.db")) as file:
            file.set_value(_KEY, self.count)
            file.flush()
