"""The service under a service manager such as systemd: its reports, and the handling of hung processes."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from guidsvc.process.worker import MISSED_HEARTBEATS
from tests.support.backing_servers import Service, children_of, pdapt, service, suspend, wait_until
from tests.support.certificates import Certificate
from tests.support.notify_socket import notify_socket
from tests.support.supervised_service import is_responding, lines_of, replace_workers, workers

WATCHDOG_SECONDS = 2.0
FEEDS = "WATCHDOG=1"


def test_single_process_reports_start_life_and_end(tmp_path: Path) -> None:
    with notify_socket(tmp_path) as notify:
        with service(tmp_path, environment=notify.environment(WATCHDOG_SECONDS)) as running:
            notify.wait_for("READY=1", log=running.log)
            assert is_responding(running)
            notify.wait_for(FEEDS, 3, running.log)
        assert notify.states() == ["READY=1", "STOPPING=1"]


def test_certificate_reload_is_reported(tmp_path: Path, certificate: Certificate) -> None:
    with (
        notify_socket(tmp_path, is_abstract=True) as notify,
        service(tmp_path, *certificate.flags, environment=notify.environment()) as running,
    ):
        notify.wait_for("READY=1", log=running.log)
        certificate.issue()
        running.process.send_signal(signal.SIGHUP)
        notify.wait_for("READY=1", 2, running.log)
        assert notify.states() == ["READY=1", "RELOADING=1", "READY=1"]
        assert FEEDS not in notify.messages, "no watchdog was requested"


def test_failed_start_is_not_reported_as_ready(tmp_path: Path) -> None:
    with notify_socket(tmp_path) as notify:
        assert pdapt(tmp_path, "--store-url", "sqlite:////nowhere/a.db", **notify.environment()).returncode == 1
        assert notify.states() == []


def environment_of(pid: int) -> set[str]:
    """Return the names of the environment variables of a process."""
    return set(re.findall(r"(?:^|\0)(\w+)=", Path(f"/proc/{pid}/environ").read_text(errors="replace")))


@pytest.mark.slow
def test_supervisor_reports_for_all_its_workers(tmp_path: Path, redis_url: str) -> None:
    with notify_socket(tmp_path) as notify:
        environment = notify.environment(WATCHDOG_SECONDS)
        with workers(tmp_path, redis_url, is_forked=False, environment=environment) as running:
            notify.wait_for("READY=1", log=running.log)
            for pid in children_of(running.process.pid):
                assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & environment_of(pid)
            replace_workers(running)
            notify.wait_for("READY=1", 2, running.log)
            notify.wait_for(FEEDS, 3, running.log)
        assert notify.states() == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
        assert not lines_of(running, "worker hangs, killing it")


@pytest.mark.slow
def test_supervisor_replaces_a_worker_that_hangs(tmp_path: Path, redis_url: str) -> None:
    with (
        notify_socket(tmp_path) as notify,
        workers(tmp_path, redis_url, environment=notify.environment(WATCHDOG_SECONDS)) as running,
    ):
        hung_pid = children_of(running.process.pid)[0]
        os.kill(hung_pid, signal.SIGSTOP)
        wait_until(lambda: bool(lines_of(running, "worker restarted")), "another worker", running.log)
        (line,) = lines_of(running, "worker hangs, killing it")
        assert line["pid"] == hung_pid
        heartbeats = notify.receive().count(FEEDS)
        notify.wait_for(FEEDS, heartbeats + 2, running.log)
        assert all(is_responding(running) for _ in range(20))
        assert notify.states() == ["READY=1"]


def pause_all(running: Service) -> list[int]:
    """Suspend the supervisor, then its workers, as a container freezer does; return the workers."""
    suspend(running.process)
    paused = children_of(running.process.pid)
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    return paused


@pytest.mark.slow
def test_pause_of_all_processes_kills_no_worker(tmp_path: Path, redis_url: str) -> None:
    with (
        notify_socket(tmp_path) as notify,
        workers(tmp_path, redis_url, environment=notify.environment(WATCHDOG_SECONDS)) as running,
    ):
        notify.wait_for(FEEDS, 2, running.log)
        paused = pause_all(running)
        time.sleep(WATCHDOG_SECONDS + 1)  # the pause must exceed the watchdog time
        running.resume()
        time.sleep(WATCHDOG_SECONDS / MISSED_HEARTBEATS / 2)  # the supervisor wakes first, and finds no heartbeat
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
        heartbeats = notify.receive().count(FEEDS)
        notify.wait_for(FEEDS, heartbeats + 3, running.log)
        assert children_of(running.process.pid) == paused
        assert not lines_of(running, "worker hangs, killing it")
