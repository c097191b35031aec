"""The start-up time, and the memory of a cached record and of an idle connection: `python -m bench.footprint`."""

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory

from bench import records, wrk
from bench.running import ROOT, SERVER_CORE, Running, free_port, service

STARTS = 20
RECORDS = 100_000
CONNECTIONS = 2_000
_REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def main() -> None:
    """Measure, and print."""
    starts = [_start() for _ in range(STARTS)]
    print(f"start to the first answer: {statistics.median(starts):.2f} s, median of {STARTS} ({min(starts):.2f} to "
          f"{max(starts):.2f})")  # fmt: skip
    with service(core=SERVER_CORE) as running:
        records.put_in(running, 0, RECORDS)
        memory_before = running.mib
        while wrk.load(running.port, "/", 2, script="read", variables={"KEYS": RECORDS}).requests and _grows(running):
            pass
        print(f"a cached record: {(running.mib - memory_before) * 1024 / RECORDS:.2f} KiB, of {RECORDS:,}")
    with service(core=SERVER_CORE) as running, ExitStack() as stack:
        _exchange(stack.enter_context(_connection(running.port)))
        memory_before = running.mib
        for _ in range(CONNECTIONS):
            _exchange(stack.enter_context(_connection(running.port)))
        print(f"a kept connection: {(running.mib - memory_before) * 1024 / CONNECTIONS:.2f} KiB, of {CONNECTIONS:,}")


_sizes: list[float] = []


def _grows(running: Running) -> bool:
    """Whether the cache is still filling."""
    _sizes.append(running.mib)
    return len(_sizes) < 3 or _sizes[-1] > _sizes[-3] + 0.5  # noqa: PLR2004  # rounds without growth


def _start() -> float:
    """Start the service with its defaults; return the seconds until the first response."""
    with TemporaryDirectory() as folder:
        port = free_port()
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "pdapt.py"), "--port", str(port)],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not _responds(port):
                time.sleep(0.002)
            return time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()


def _responds(port: int) -> bool:
    try:
        with _connection(port) as connection:
            _exchange(connection)
    except OSError:
        return False
    return True


@contextmanager
def _connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection


def _exchange(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        raise RuntimeError("the response of the service is not 200")


if __name__ == "__main__":
    main()
