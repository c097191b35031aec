"""Several workers under a supervisor, as processes: they start, are replaced and stop, and none is left behind.

With `is_forked=False`, the supervisor starts its workers as new Python processes; else it forks them.
"""

import asyncio
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from guidsvc.monitoring.metric_files import PREFIX
from guidsvc.process.slot import Backoff
from guidsvc.process.worker_channel import MARGIN_SECONDS
from guidsvc.server.sockets import open_listeners
from tests.support.backing_servers import Service, children_of, free_port, is_alive, pdapt, service, wait_until
from tests.support.certificates import Certificate
from tests.support.http_client import Client, read_reply
from tests.support.load_generator import KEYS, HttpLoad
from tests.support.metrics import Samples, read, value
from tests.support.supervised_service import LAST_LINE_OF_BANNER, is_responding, lines_of, replace_workers, workers

READY = {"route": "/readyz", "method": "GET", "status": "200"}
ROLLS = 4


def children(running: Service) -> list[int]:
    """Return the process ids of the workers."""
    return children_of(running.process.pid)


def remove_folder(folder: Path) -> None:
    """Remove a folder in which other processes create and remove files."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


# Metrics


def metrics(running: Service) -> Samples:
    """Read the metrics over a new connection, so that any worker may answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
        connection.request("GET", "/metrics")
        return read(connection.getresponse().read().decode())


def test_any_worker_reports_metrics_of_all_and_replaced_workers(tmp_path: Path, redis_url: str) -> None:
    def ready() -> float:
        return value(metrics(running), "guidsvc_requests_total", route="/readyz", method="GET", status="200")

    def processes() -> float:
        return sum(number for (name, _), number in metrics(running).items() if name == "guidsvc_fence")

    with workers(tmp_path, redis_url) as running:
        assert all(is_responding(running) for _ in range(40))
        wait_until(lambda: ready() == 40, "the sum over all workers", running.log)
        wait_until(lambda: processes() == 2, "the gauges of both workers", running.log)
        replace_workers(running)
        wait_until(lambda: processes() == 2, "the gauges of the new workers only", running.log)
        assert all(ready() == 40 for _ in range(10)), "every worker reports the sum"


def metrics_folder(running: Service) -> Path:
    """Return the folder in which the workers share their metrics. They have opened files in it."""
    descriptors = Path(f"/proc/{children(running)[0]}/fd").iterdir()
    return next(Path(link).parent for link in map(_link, descriptors) if f"/{PREFIX}" in link)


def test_files_of_dead_workers_are_merged_and_removed(tmp_path: Path, redis_url: str) -> None:
    def ready() -> float:
        return value(metrics(running), "guidsvc_requests_total", route="/readyz", method="GET", status="200")

    def files_of_dead_workers() -> set[str]:
        running_pids = {str(pid) for pid in (running.process.pid, *children(running))}
        names = {path.name for path in folder.glob("*.db")}
        return {name for name in names if name.rpartition("_")[2].removesuffix(".db") not in running_pids}

    with workers(tmp_path, redis_url) as running:
        folder = metrics_folder(running)
        for count in (10, 20, 30):
            assert all(is_responding(running) for _ in range(10))
            wait_until(lambda count=count: ready() == count, "the sum over all workers", running.log)  # type: ignore[misc]
            victim = children(running)[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: victim not in children(running), "the end of the worker", running.log)  # type: ignore[misc]
            wait_until(lambda: len(children(running)) == 2, "a new worker", running.log)
            merged_files = {"counter_dead.db", "histogram_dead.db"}
            wait_until(lambda: files_of_dead_workers() == merged_files, "one file for all dead workers", running.log)  # noqa: B023
            assert ready() == count


def test_next_supervisor_removes_files_of_a_killed_one(tmp_path: Path, redis_url: str) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    options = ["--workers", "2", "--cache-url", redis_url, "--no-access-log"]
    with service(tmp_path, *options, environment=environment) as running:
        wait_until(lambda: LAST_LINE_OF_BANNER in running.log.read_text(), "the banner", running.log)
        folder, pids = metrics_folder(running), children(running)
        running.kill()
        wait_until(lambda: not any(map(is_alive, pids)), "the end of the workers", running.log)
        assert folder.is_dir()
        running.start()
        wait_until(lambda: len(children(running)) == 2, "the workers", running.log)
        assert not folder.exists()
        assert metrics_folder(running).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["removed", "replaced"])
def test_workers_start_and_serve_without_the_metrics_folder(tmp_path: Path, redis_url: str, harm: str) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    options = ["--workers", "2", "--cache-url", redis_url, "--no-access-log", "--log-format", "json"]
    with service(tmp_path, *options, environment=environment) as running:
        wait_until(lambda: LAST_LINE_OF_BANNER in running.log.read_text(), "the banner", running.log)
        folder, pids = metrics_folder(running), children(running)
        remove_folder(folder)
        if harm == "replaced":
            folder.touch()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(lines_of(running, "worker restarted")) == 2, "new workers", running.log)
        assert all(is_responding(running) for _ in range(10))
        replace_workers(running)
        folder.unlink() if harm == "replaced" else remove_folder(folder)
        wait_until(folder.is_dir, "the folder is created again without a new worker", running.log)
        assert is_responding(running)
        wait_until(lambda: value(metrics(running), "guidsvc_requests_total", **READY) == 1, "metrics", running.log)
        assert running.stop() == 0
        assert not folder.exists()


def test_deaths_of_workers_are_counted_by_the_supervisor(tmp_path: Path, redis_url: str) -> None:
    """Replaced workers do not count. Every worker reports the number, also after its folder was removed."""

    def reported_deaths() -> set[float]:
        return {value(metrics(running), "guidsvc_worker_deaths_total") for _ in range(5)}

    with workers(tmp_path, redis_url) as running:
        assert ("guidsvc_worker_deaths_total", frozenset()) in metrics(running)
        replace_workers(running)
        assert reported_deaths() == {0}
        for deaths in (1, 2):
            os.kill(children(running)[0], signal.SIGKILL)
            wait_until(lambda deaths=deaths: reported_deaths() == {deaths}, "the death", running.log)  # type: ignore[misc]
            wait_until(lambda: len(children(running)) == 2, "another worker", running.log)
        folder = metrics_folder(running)
        remove_folder(folder)
        wait_until(folder.is_dir, "the folder is created again", running.log)
        wait_until(lambda: reported_deaths() == {2}, "the earlier count", running.log)


def test_gauges_of_all_workers_are_put_together(tmp_path: Path, redis_url: str) -> None:
    """Limits are added up; the number of records is that of the latest count by any worker."""
    with workers(tmp_path, redis_url, "--max-connections", "50") as running:
        wait_until(lambda: value(metrics(running), "guidsvc_connections_limit") == 100, "both limits", running.log)
        assert value(metrics(running), "guidsvc_store_writable") == 1
        assert value(metrics(running), "guidsvc_records", state="live") == 0
        body = b'{"user": "u", "ttl": 600}'
        with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
            connection.request("POST", "/guid", body, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 201
        for name, labels in (("guidsvc_records", {"state": "live"}), ("guidsvc_records_expiring", {"within": "1h"})):
            wait_until(lambda n=name, of=labels: value(metrics(running), n, **of) == 1, "the count", running.log)  # type: ignore[misc]
        assert all(value(metrics(running), "guidsvc_records", state="live") == 1 for _ in range(10))


def test_every_worker_knows_how_many_serve(tmp_path: Path, redis_url: str) -> None:
    """A worker that dies again and again is restarted with a growing delay. A new connection may wait for it."""

    def counts() -> set[int | None]:
        return {readiness(running).get("workers") for _ in range(5)}

    def one_less() -> bool:
        newest = children(running)[-1]
        if len(children(running)) == 3:
            os.kill(newest, signal.SIGKILL)
        return 2 in counts()

    def doctor(count: str) -> str:
        return found_by_doctor(running, "--workers", count, "--cache-url", redis_url)

    def status() -> str:
        return pdapt(tmp_path, "status", "-o", "table", "--url", running.url).stdout

    with workers(tmp_path, redis_url, count=3) as running:
        # Each worker counts for itself, so another one may still know of two.
        wait_until(
            lambda: "ok      service.workers: 3 processes serve" in doctor("3"), "the doctor's count", running.log
        )
        wrong = "warn    service.workers: 3 processes serve, but --workers is 4"
        wait_until(lambda: wrong in doctor("4"), "the doctor's warning", running.log)
        wait_until(lambda: "workers  3" in status(), "the count in the status", running.log)
        wait_until(one_less, "two workers", running.log)
        wait_until(lambda: counts() == {3}, "another third", running.log)


def readiness(running: Service) -> Any:
    """Return the answer of /readyz, from any worker."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
        connection.request("GET", "/readyz")
        return json.loads(connection.getresponse().read())


def found_by_doctor(running: Service, *flags: str) -> str:
    """Return what the doctor finds of the service."""
    skipped = [word for name in ("settings", "host", "store", "redis") for word in ("--skip", name)]
    return pdapt(running.log.parent, "doctor", "--port", str(running.port), *skipped, *flags).stdout


# Starting


def test_workers_with_local_caches_are_rejected_with_a_remedy(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "--workers", "2", "--port", str(free_port()))

    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"pdapt.py: --workers: 2 need .* share.*redis://host:6379/0.*\n", result.stderr)


def test_banner_is_printed_once_when_all_workers_serve(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url, count=3, is_forked=False) as running:
        log = running.log.read_text()
        assert len(children(running)) == 3
        assert len(re.findall("curl", log)) == 1
        assert [line["workers"] for line in lines_of(running, "serving")] == ["3"]
        assert is_responding(running)
        assert running.stop() == 0
        assert {line.get("worker") for line in lines_of(running, "stopping")} == {None, 1, 2, 3}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--store-url", "mongodb://127.0.0.1:1/guidsvc"], 1, "MongoDB cannot be used"),
        (["--store-url", "sqlite:///missing/guidsvc.db"], 1, "folder is missing"),
        (["--tls-cert", "missing"], 2, "--tls-cert, --tls-key: "),
        (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
    ],
)
def test_start_error_is_reported_in_one_line(
    tmp_path: Path, redis_url: str, options: list[str], code: int, message: str
) -> None:
    common_options = ["--workers", "2", "--cache-url", redis_url, "--port", str(free_port())]
    result = pdapt(tmp_path, *common_options, *options)

    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("pdapt.py: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_shared_port_of_another_process_is_rejected_too(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url) as running:
        result = pdapt(tmp_path, "--workers", "2", "--cache-url", redis_url, "--port", str(running.port))
        assert result.stderr.startswith(f"pdapt.py: --host, --port: cannot listen on 127.0.0.1:{running.port}: ")


def test_every_slot_has_its_own_sockets_on_one_port() -> None:
    with open_listeners("127.0.0.1", 0, None, slots=3) as slots:
        assert len({each.getsockname() for (each,) in slots}) == 1
        assert len({each.fileno() for (each,) in slots}) == 3


@pytest.mark.slow
def test_workers_take_turns_on_a_unix_socket(tmp_path: Path, redis_url: str) -> None:
    path = tmp_path / "socket"
    options = ["--workers", "2", "--cache-url", redis_url, "--log-format", "json", "--unix-socket", str(path)]
    command = [sys.executable, str(Path(__file__).parents[2] / "pdapt.py"), *options]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    wait_until(lambda: LAST_LINE_OF_BANNER in (tmp_path / "log").read_text(), "the banner", tmp_path / "log")

    def both_answer() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
        return {line["worker"] for line in lines if line.get("path") == "/livez"} == {1, 2}

    for _ in range(2):
        wait_until(both_answer, "an answer of each worker", tmp_path / "log")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload finished" in (tmp_path / "log").read_text(), "new workers", tmp_path / "log")
    process.terminate()
    assert process.wait(20) == 0
    assert not path.exists()


async def test_replaced_workers_use_the_new_certificate(
    tmp_path: Path, redis_url: str, certificate: Certificate
) -> None:
    serials = set()
    with workers(tmp_path, redis_url, *certificate.flags) as running:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=certificate.trusting())
            serials.add(writer.get_extra_info("peercert")["serialNumber"])
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await read_reply(reader, "GET")).status == 200
            writer.close()
            await writer.wait_closed()
            certificate.issue()
            await asyncio.to_thread(replace_workers, running)
    assert len(serials) == 2


# Dead workers


def test_dead_worker_is_replaced_while_new_clients_wait(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url) as running:
        pids = children(running)
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: bool(lines_of(running, "worker exited, restarting it")), "the death", running.log)
        assert all(is_responding(running) for _ in range(20)), "half of these reach the dead worker's socket"
        wait_until(lambda: bool(lines_of(running, "worker restarted")), "a new worker", running.log)
        new_pids = children(running)

        (line,) = lines_of(running, "worker exited, restarting it")
        assert (line["signal"], line["pid"], line["worker"]) == ("SIGKILL", pids[0], 1)
        assert len(new_pids) == 2
        assert set(pids) & set(new_pids) == {pids[1]}


def test_crashing_worker_is_restarted_with_growing_delay(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url) as running:
        survivor = children(running)[1]
        for deaths in range(1, 4):
            wait_until(lambda: len(children(running)) == 2, "two workers", running.log)
            (victim,) = set(children(running)) - {survivor}
            os.kill(victim, signal.SIGKILL)
            description = f"death {deaths}"
            wait_until(lambda: len(children(running)) == 1, description, running.log)
        wait_until(lambda: len(children(running)) == 2, "two workers", running.log)
        delays = [line["restart_in_seconds"] for line in _deaths(running)]

    assert sorted(delays) == [0.25, 0.5, 1.0]


def _starts(running: Service) -> list[dict[str, Any]]:
    """Return the log lines of restarts after a death, successful or not."""
    return [*lines_of(running, "worker cannot be started"), *lines_of(running, "worker restarted")]


def _deaths(running: Service) -> list[dict[str, Any]]:
    return [*lines_of(running, "worker exited, restarting it"), *lines_of(running, "worker cannot be started")]


def test_long_lived_worker_is_replaced_at_once() -> None:
    backoff = Backoff(first=1, most=5, steady=10)

    assert [backoff.after(0) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert [backoff.after(served) for served in (10, 0, 9.9)] == [0, 1, 2]
    assert [Backoff().after(0) for _ in range(3)] == [0.25] * 3


def test_descriptor_shortage_ends_neither_supervisor_nor_workers(tmp_path: Path, redis_url: str) -> None:
    """The supervisor runs out of descriptors at each point of a worker's start."""
    with workers(tmp_path, redis_url, is_forked=False) as running:
        supervisor = running.process.pid
        limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        for spare in range(5):
            wait_until(lambda: len(children(running)) == 2, "two workers", running.log)
            survivor, victim = children(running)
            descriptors = max(map(int, os.listdir(f"/proc/{supervisor}/fd"))) + 1  # noqa: PTH208
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (descriptors - 3 + spare, limits[1]))
            count = len(_starts(running))
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda count=count: len(_starts(running)) > count, "an attempt", running.log)  # type: ignore[misc]
            assert survivor in children(running)
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: len(children(running)) == 2, "two workers", running.log)
        assert lines_of(running, "worker cannot be started"), "so few descriptors stop a start"
        assert is_responding(running)


def answers_within(running: Service, seconds: float) -> bool:
    """Return whether a new connection gets a response within this time."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=seconds)) as connection:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_other_workers_get_all_connections_if_one_cannot_start(tmp_path: Path, redis_url: str, server: str) -> None:
    """Once it starts, it gets its share again. While none can start, clients wait for the first that serves."""

    def served() -> int:
        connections = [socket.create_connection(("127.0.0.1", running.port), 20) for _ in range(40)]
        count = sum(bool(_connections(pid)) for pid in children(running))
        for connection in connections:
            connection.close()
        return count

    with workers(tmp_path, redis_url, "--server", server) as running:
        first, second = children(running)
        (tmp_path / ".env").write_text("GUIDSVC_LIFETIME=nonsense\n")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: bool(_starts(running)), "an attempt", running.log)
        assert all(answers_within(running, 20) for _ in range(40)), "half of these reach the dead worker's socket"
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: {line["worker"] for line in _starts(running)} == {1, 2}, "an attempt", running.log)
        with socket.create_connection(("127.0.0.1", running.port), 20) as waiting:
            (tmp_path / ".env").unlink()
            waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            waiting.settimeout(30)
            assert waiting.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: len(lines_of(running, "worker restarted")) == 2, "two workers", running.log)
        wait_until(lambda: served() == 2, "connections of each", running.log)
        replace_workers(running)
        assert all(is_responding(running) for _ in range(20))


def _connections(pid: int) -> list[str]:
    """Return the established connections of a process to the port that it listens on."""
    inodes = {link for link in map(_link, Path(f"/proc/{pid}/fd").iterdir()) if link.startswith("socket:")}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A"}
    return [row[9] for row in rows if row[3] == "01" and row[1] in listening and f"socket:[{row[9]}]" in inodes]


def _link(path: Path) -> str:
    with suppress(FileNotFoundError):
        return str(path.readlink())
    return ""


@pytest.mark.parametrize("is_busy", [True, False])
def test_workers_end_with_their_supervisor(tmp_path: Path, redis_url: str, *, is_busy: bool) -> None:
    with workers(tmp_path, redis_url) as running:
        pids = children(running)
        if is_busy:
            assert is_responding(running)
        running.kill()
        wait_until(lambda: not any(map(is_alive, pids)), "the end of the workers", running.log)
        assert "Traceback" not in running.log.read_text()
        assert len(lines_of(running, "stopping")) == 2, "each worker stopped by itself"


def test_hung_worker_ends_with_its_supervisor_too(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url, "--grace", "0", "--store-url", "sqlite:///a.db") as running:
        pids = children(running)
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            os.kill(pids[0], signal.SIGSTOP)
            running.kill()
            wait_until(lambda: not is_alive(pids[1]), "the end of the running worker", running.log)
            os.kill(pids[0], signal.SIGCONT)
        wait_until(lambda: not is_alive(pids[0]), "the end of the hung worker", running.log)


# Shutdown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_at_shutdown_are_answered(tmp_path: Path, redis_url: str, number: signal.Signals) -> None:
    with (
        workers(tmp_path, redis_url) as running,
        closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as lock,
        closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as slow,
        closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as idle,
    ):
        lock.execute("BEGIN IMMEDIATE")
        slow.request("PUT", f"/guid/{'A' * 32}", b'{"user": "x"}')
        idle.request("GET", "/readyz")
        assert b'"ready"' in idle.getresponse().read()
        running.process.send_signal(number)
        wait_until(lambda: len(lines_of(running, "stopping")) == 3, "the shutdown", running.log)
        idle.request("GET", "/readyz")
        reply = idle.getresponse()
        assert (reply.status, reply.headers["Connection"]) == (503, "close")
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", running.port)):
            pass
        lock.execute("ROLLBACK")
        reply = slow.getresponse()
        assert (reply.status, reply.headers["Connection"]) == (201, "close")
        assert running.process.wait(20) == 0
        assert "Traceback" not in running.log.read_text()


def test_worker_hung_beyond_the_grace_is_killed_and_logged(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url, "--grace", "0.1") as running:
        hung_pid = children(running)[0]
        os.kill(hung_pid, signal.SIGSTOP)
        started = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - started > MARGIN_SECONDS
        (line,) = lines_of(running, "worker did not stop in time, killing it")
        assert (line["pid"], line["worker"], line["level"]) == (hung_pid, 1, "error")
        assert not is_alive(hung_pid)


def test_signal_to_the_whole_group_counts_once(tmp_path: Path, redis_url: str) -> None:
    with (
        workers(tmp_path, redis_url, is_forked=False) as running,
        socket.create_connection(("127.0.0.1", running.port)) as client,
    ):
        client.sendall(b"PUT /guid/" + b"A" * 32 + b' HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"user"')
        assert is_responding(running)
        for pid in (*children(running), running.process.pid, *children(running)):
            with suppress(ProcessLookupError):  # the worker without a request may have ended already
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: len(lines_of(running, "stopping")) == 3, "the shutdown", running.log)
        client.sendall(b': "x"}')
        client.settimeout(10)
        assert client.recv(4096).startswith(b"HTTP/1.1 201 ")
        assert running.process.wait(20) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_second_signal_ends_all_processes_at_once(
    tmp_path: Path, redis_url: str, number: signal.Signals, code: int
) -> None:
    with workers(tmp_path, redis_url, "--grace", "3600") as running:
        pids = children(running)
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(b"GET / HT")
            assert is_responding(running)
            running.process.send_signal(number)
            wait_until(lambda: len(lines_of(running, "stopping")) == 3, "the shutdown", running.log)
            assert running.stop(number) == code
        assert not any(map(is_alive, pids))
        assert "Traceback" not in running.log.read_text()


def test_metrics_folder_exists_while_workers_run(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url, is_forked=False) as running:
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in children(running)]
        folders = {re.search(rb"PROMETHEUS_MULTIPROC_DIR=([^\0]+)", each)[1] for each in environments}  # type: ignore[index]
        (folder,) = (Path(os.fsdecode(each)) for each in folders)
        assert folder.is_dir()
        victim = children(running)[0]
        (folder / f"gauge_livesum_{victim}.db").write_bytes(b"")
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: not list(folder.glob(f"gauge_live*_{victim}.db")),
            "the removal of the dead worker's gauges",
            running.log,
        )
        assert running.stop() == 0
        assert not folder.exists()


# Replacement


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_replacements_under_load_fail_no_request(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url, "--grace", "10") as running:
        client = Client(running.port)
        for number in range(KEYS):
            assert (await client.put(f"/guid/{number:032X}", {"user": "somebody"})).status == 201
        await client.aclose()
        pids = children(running)
        load = HttpLoad(running.port)
        async with load.running(10):
            for _ in range(ROLLS):
                answered_before = load.answered
                await asyncio.to_thread(replace_workers, running)
                assert load.answered > answered_before
        assert load.failures == []
        assert load.connections > ROLLS, "the old workers close their connections"
        assert not set(pids) & set(children(running))
        assert len(children(running)) == 2
        assert "Traceback" not in running.log.read_text()


def test_old_workers_stay_if_new_ones_cannot_start(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url, is_forked=False) as running:
        pids = children(running)
        (tmp_path / ".env").write_text("GUIDSVC_LIFETIME=nonsense\n")
        running.process.send_signal(signal.SIGHUP)
        message = "reload failed, keeping the current workers"
        wait_until(lambda: bool(lines_of(running, message)), "the failure", running.log)
        place = f"GUIDSVC_LIFETIME ({tmp_path / '.env'}, line 1): "
        assert lines_of(running, message)[0]["error"].startswith(place)
        assert children(running) == pids
        assert is_responding(running)
        (tmp_path / ".env").write_text("GUIDSVC_LIFETIME=1000\n")
        replace_workers(running)
        assert not set(children(running)) & set(pids)


def test_worker_with_other_settings_does_not_join_the_others(tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, redis_url) as running:
        first, second = children(running)
        (tmp_path / ".env").write_text("GUIDSVC_LIFETIME=1000\n")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: bool(_starts(running)), "an attempt", running.log)
        assert "the settings have changed" in _starts(running)[0]["error"]
        assert children(running) == [second]
        replace_workers(running)
        assert second not in children(running)
        wait_until(lambda: len(children(running)) == 2, "two workers with the new settings", running.log)


@pytest.mark.slow
def test_new_workers_never_create_a_store_that_was_moved(tmp_path: Path, redis_url: str) -> None:
    """One in an empty store would not find the records that the others serve."""

    def found() -> set[int]:
        return {status_of(running, f"/guid/{number:032X}") for number in range(20)}

    def move(source: Path, target: Path) -> None:
        for path in source.glob("guidsvc.db*"):
            path.rename(target / path.name)

    failed = "reload failed, keeping the current workers"
    (tmp_path / "away").mkdir()
    with workers(tmp_path, redis_url) as running:
        for number in range(20):
            assert status_of(running, f"/guid/{number:032X}", "PUT", b'{"user": "u"}') == 201
        move(tmp_path, tmp_path / "away")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(lines_of(running, failed)), "the failed reload", running.log)
        os.kill(children(running)[0], signal.SIGKILL)
        wait_until(lambda: bool(lines_of(running, "worker cannot be started")), "an attempt", running.log)
        for line in (*lines_of(running, failed), *lines_of(running, "worker cannot be started")):
            assert line["error"].startswith(f"--store-url: {tmp_path / 'guidsvc.db'} is missing")
        assert found() == {200}
        os.kill(children(running)[0], signal.SIGKILL)
        wait_until(lambda: {line["worker"] for line in _starts(running)} == {1, 2}, "an attempt of each", running.log)
        assert not list(tmp_path.glob("guidsvc.db*"))
        move(tmp_path / "away", tmp_path)
        wait_until(lambda: len(lines_of(running, "worker restarted")) == 2, "two workers", running.log)
        assert found() == {200}


def status_of(running: Service, path: str, method: str = "GET", body: bytes | None = None) -> int:
    """Return the status of the response to a request on a new connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status


def test_single_process_service_ends_on_sighup(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        wait_until(lambda: LAST_LINE_OF_BANNER in running.log.read_text(), "the banner", running.log)
        assert running.stop(signal.SIGHUP) == 0
        assert "stopping" in running.log.read_text()
