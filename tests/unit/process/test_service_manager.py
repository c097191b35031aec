"""Messages to a service manager: their socket, their times, and failures to deliver them."""

import asyncio
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from guidsvc.process.service_manager import ServiceManager
from tests.conftest import ExpectedLogs
from tests.support.notify_socket import NotifySocket, notify_socket

WATCHDOG_SECONDS = 0.2
WAIT_SECONDS = 30


async def wait_for_heartbeats(notify: NotifySocket, count: int) -> None:
    """Run the loop until the watchdog got this many heartbeats."""
    async with asyncio.timeout(WAIT_SECONDS):
        while notify.receive().count("WATCHDOG=1") < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_abstract", [False, True])
async def test_states_reach_path_and_abstract_sockets(tmp_path: Path, *, is_abstract: bool) -> None:
    with notify_socket(tmp_path, is_abstract=is_abstract) as notify:
        manager = ServiceManager(notify.address)
        manager.ready()
        manager.reloading()
        manager.stopping()

        ready, reloading, stopping = notify.receive()
        assert (ready, stopping) == ("READY=1", "STOPPING=1")
        state, _, monotonic_us = reloading.partition("\nMONOTONIC_USEC=")
        assert state == "RELOADING=1"
        assert 0 <= time.monotonic() - int(monotonic_us) / 1e6 < WAIT_SECONDS


async def test_watchdog_is_not_fed_while_the_loop_hangs(tmp_path: Path) -> None:
    with notify_socket(tmp_path) as notify:
        manager = ServiceManager(notify.address, WATCHDOG_SECONDS)
        manager.ready()
        await wait_for_heartbeats(notify, 3)
        heartbeats = len(notify.receive())
        time.sleep(5 * WATCHDOG_SECONDS)  # noqa: ASYNC251  # this is the hang
        assert len(notify.receive()) == heartbeats
        await wait_for_heartbeats(notify, heartbeats + 1)


async def test_reload_does_not_feed_the_watchdog_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with notify_socket(tmp_path) as notify:
        loop = asyncio.get_running_loop()
        scheduled: list[float] = []
        monkeypatch.setattr(loop, "call_later", lambda seconds, *_: scheduled.append(seconds))
        manager = ServiceManager(notify.address, WATCHDOG_SECONDS)
        manager.ready()
        manager.ready()

        assert scheduled == [WATCHDOG_SECONDS / 2]
        assert notify.receive() == ["READY=1", "WATCHDOG=1", "READY=1"]


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("20000000", None, 20.0),
        pytest.param("20000000", str(os.getpid()), 20.0, id="own process"),
        ("20000000", "1", 0.0),
        (None, None, 0.0),
        ("soon", None, 0.0),
        pytest.param("9" * 5000, None, 0.0, id="long"),
    ],
)
def test_watchdog_time_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, expected: float
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is not None:
            monkeypatch.setenv(name, value)

    assert ServiceManager.from_environment().watchdog_seconds == expected
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys(), "child processes must not notify"


async def test_nothing_is_sent_without_a_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    manager = ServiceManager.from_environment()
    manager.ready()
    manager.stopping()

    assert manager.watchdog_seconds == 0


async def test_failed_messages_are_logged_once_per_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("service manager cannot be notified")
    manager = ServiceManager(str(tmp_path / "notify.sock"))
    for _ in range(3):
        manager.ready()
    with notify_socket(tmp_path) as notify:
        manager.ready()
        assert notify.receive() == ["READY=1"]

    lines = [record.getMessage() for record in caplog.records]
    assert [("cannot" in line, "notified again" in line) for line in lines] == [(True, False), (False, True)]


async def test_full_queue_of_the_manager_stops_nothing(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("service manager cannot be notified")
    with notify_socket(tmp_path) as notify:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(notify.address)
            with suppress(BlockingIOError):
                while True:
                    sender.send(b"WATCHDOG=1")
        manager = ServiceManager(notify.address, WATCHDOG_SECONDS)
        manager.ready()
        queued = len(notify.receive())
        await wait_for_heartbeats(notify, queued + 2)
