"""The instructions of a request, counted by callgrind, which runs the service on a simulated processor.

That is some fifty times slower than the real one, too slow for the time limit of Redis. So paths that need Redis are
left out.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as File
from tempfile import TemporaryDirectory

from bench.cost.paths import SERVERS, Path, by_server
from bench.cost.service import Service, measured_service


def is_installed() -> bool:
    """Whether callgrind is on PATH."""
    return shutil.which("valgrind") is not None and shutil.which("callgrind_control") is not None


def measure(paths: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Yield the instructions of each path that needs no Redis."""
    for name, group in by_server(path for path in paths if not SERVERS[path.server].has_redis).items():
        with TemporaryDirectory() as folder:
            output = File(folder, "out")
            prefix = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]
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
        self._control("--zero")
        for request in requests:
            self._service.send(request, expects_error=path.expects_error)
        self._control("--dump")
        self._dumps += 1
        dump = self._output.with_name(f"{self._output.name}.{self._dumps}").read_text()
        found = re.search(r"^summary: (\d+)", dump, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"callgrind reports no total for {path.name}")
        return int(found[1])

    def _control(self, option: str) -> None:
        command = ["callgrind_control", option, str(self._service.process.pid)]
        subprocess.run(command, check=True, capture_output=True)
