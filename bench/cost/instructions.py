"""The instructions of a request, counted by callgrind, which runs the service on a simulated processor.

That is some fifty times slower than the real one, too slow for the time limit of Redis; and while time is stopped, the
event loop may miss under callgrind that a thread is done. So paths that need Redis or a thread are left out.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as File
from tempfile import TemporaryDirectory

from bench.cost.paths import SERVERS, Path, by_server
from bench.cost.service import Service, measured_service

DUMP_FUNCTION = "getppid"
"""A function of the C library that the service calls only for the command `dump`. Callgrind then writes its counts."""


def is_installed() -> bool:
    """Whether callgrind is on PATH."""
    return shutil.which("valgrind") is not None


def measure(paths: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Yield the instructions of each path that needs neither Redis nor a thread."""
    countable = (path for path in paths if not (path.uses_thread or SERVERS[path.server].has_redis))
    for name, group in by_server(countable).items():
        with TemporaryDirectory() as folder:
            output = File(folder, "out")
            prefix = [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={output}",
                f"--dump-before={DUMP_FUNCTION}",
            ]
            with measured_service(SERVERS[name], "", "instructions", prefix) as service:
                callgrind = _Callgrind(service, output)
                for path in group:
                    plan = path.plan(service.lines)
                    callgrind.count(path, plan.warm_up)
                    short, long = callgrind.count(path, plan.short), callgrind.count(path, plan.long)
                    yield path, round((long - short) / plan.units)


class _Callgrind:
    """Callgrind, while it runs the service. It writes the n-th dump to `output` with the suffix `.n`."""

    def __init__(self, service: Service, output: File) -> None:
        self._service = service
        self._output = output
        self._dumps = 0

    def count(self, path: Path, requests: Sequence[bytes]) -> int:
        """Send the requests, and return the number of instructions that the service executed."""
        self._dump()
        for request in requests:
            self._service.send(request, expects_error=path.expects_error)
        self._dump()
        dump = self._output.with_name(f"{self._output.name}.{self._dumps}").read_text()
        found = re.search(r"^summary: (\d+)", dump, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"callgrind reports no total for {path.name}")
        return int(found[1])

    def _dump(self) -> None:
        """Make callgrind write what it has counted since the last dump."""
        self._service.command("dump")
        self._dumps += 1
