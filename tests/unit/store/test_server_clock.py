"""The clock of the server: a lower bound, and the difference to the clock of the host."""

import logging

import pytest

from guidsvc.store.mongo.events.server_clock import ServerClock
from guidsvc.telemetry.metrics import StoreMetrics
from tests.conftest import ExpectedLogs


class Host:
    """A host whose clock and timer are controlled by the test."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.seconds = 0.0
        self.meter = StoreMetrics()
        self.clock = ServerClock(self.meter, clock=lambda: self.now, timer=lambda: self.seconds)

    def request_time(self, server_now: int, *, duration_ms: int = 0) -> float | None:
        """Request the time; return the seconds by which the clock of the host is ahead."""
        started = self.clock.start()
        self.now += duration_ms
        self.clock.note(started, server_now)
        return self.meter.clock_skew_seconds


def test_time_is_unknown_before_an_answer() -> None:
    assert Host().clock.now() is None


def test_time_goes_on_after_an_answer() -> None:
    host = Host()
    host.request_time(1_000_100)
    host.seconds += 2.5
    assert host.clock.now() == 1_002_600


@pytest.mark.parametrize(
    ("server_now", "duration_ms", "ahead"),
    [(1_000_000, 0, 0), (999_600, 0, 0.4), (1_000_400, 0, -0.4), (1_000_900, 1_000, 0), (1_001_300, 1_000, -0.3)],
)
def test_difference_is_that_beyond_the_duration_of_the_request(server_now: int, duration_ms: int, ahead: float) -> None:
    assert Host().request_time(server_now, duration_ms=duration_ms) == pytest.approx(ahead)


def test_wrong_clock_is_logged_once_and_when_it_is_right_again(
    expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    expected_logs.add("clock differs")
    host = Host()
    for server_now in (998_000, 998_000, 1_000_000, 1_000_000, 1_002_000):
        host.request_time(server_now)
    lines = [message for message in caplog.messages if "'clock " in message]
    assert ["differs" in line for line in lines] == [True, False, True]
    assert "'ahead_seconds': 2.0" in lines[0]
