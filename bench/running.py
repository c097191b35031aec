"""The service as its users have it, to be measured: a process of its own, on a SQLite file of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
_START_SECONDS = 30


class Running:
    """A service that runs: its port, and how much memory its process has used at most."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self._process = process
        self.port = port

    @property
    def peak_mib(self) -> float:
        """The largest resident set of the process so far, in MiB (Linux: VmHWM)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def connect(self) -> HTTPConnection:
        """Return a connection to it."""
        return HTTPConnection("127.0.0.1", self.port, timeout=600)


@contextmanager
def service() -> Iterator[Running]:
    """Run the service, inside."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "pdapt.py"), "--port", "0", "--no-access-log"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            banner = process.stdout.readline()
            yield Running(process, int(banner.rstrip().rpartition(":")[2]))
        finally:
            process.terminate()
            process.wait(_START_SECONDS)


def ask(connection: HTTPConnection, method: str, path: str, body: object = None, **headers: str) -> HTTPResponse:
    """Send a request and return its response, of which the body is still to be read; a body may be an iterator."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)  # type: ignore[arg-type]  # what http.client takes
    response = connection.getresponse()
    if response.status >= 400:  # noqa: PLR2004  # all that are errors
        raise RuntimeError(f"{method} {path}: {response.status} {response.read()!r}")
    return response


@contextmanager
def stopwatch(taken: list[float]) -> Iterator[None]:
    """Note the seconds that pass, inside."""
    begun = time.perf_counter()
    yield
    taken.append(time.perf_counter() - begun)
