"""Log lines that clients can cause: bounded per source and in total, with exact counts of the omitted ones."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from guidsvc.auth.audit_log import open_audit_log
from guidsvc.domain.caller import SCOPES, Caller
from guidsvc.errors import Forbidden, Unauthorized
from guidsvc.monitoring.logs import access_log
from guidsvc.monitoring.logs import log_config as logs
from guidsvc.monitoring.logs.line_limit import PER_SOURCE, SOURCE_CHARACTERS, TOTAL, WINDOW_SECONDS, LineLimit
from guidsvc.telemetry.tracing import CURRENT, RequestTrace
from tests.conftest import FakeClock, Serving
from tests.support.backing_servers import service
from tests.support.factories import GUID
from tests.support.http_client import Client

PATH = f"/guid/{GUID}"


class RecordedLimit:
    """A limit with a controlled timer, and its reports."""

    def __init__(self, **bounds: int) -> None:
        self.now = 0.0
        self.counts: Counter[str | None] = Counter()
        self.limit = LineLimit(self._report, timer=lambda: self.now, **bounds)

    def _report(self, source: str | None, count: int) -> None:
        self.counts[source] += count


def test_each_source_is_limited_per_window_and_the_sum_is_exact() -> None:
    recorded = RecordedLimit(per_source=3, total=5)
    admitted = Counter(source for source in "aaaaabbbbccd" if recorded.limit.admits(source))
    assert admitted == {"a": 3, "b": 2}
    assert recorded.counts == {}
    recorded.now += WINDOW_SECONDS
    assert recorded.limit.admits("c")
    assert recorded.counts == {"a": 2, "b": 2, None: 3}


def test_remembered_sources_are_bounded() -> None:
    recorded = RecordedLimit()
    for number in range(10 * TOTAL):
        recorded.limit.admits(f"{number:06}" * 1000)
    assert len(recorded.limit._lines) == TOTAL  # after that, no source is added
    assert max(map(len, recorded.limit._lines)) == SOURCE_CHARACTERS
    recorded.limit.end_window()
    assert recorded.counts == {None: 9 * TOTAL}


def denials(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["action"] == "denied"]


def count(lines: list[dict[str, Any]]) -> int:
    return sum(line.get("count", 1) for line in lines)


async def test_failed_logins_of_an_address_have_bounded_audit_lines(serving: Serving, tmp_path: Path) -> None:
    """Also from a locked-out address; the counts add up to all failures."""
    path, failures = tmp_path / "audit.log", PER_SOURCE + 40
    async with serving(access="keys", audit_log=str(path), login_limit="3/minute") as client:
        credentials = [{"Authorization": f"Bearer {number}"} for number in range(failures)]
        replies = await asyncio.gather(*(client.get(PATH, headers=headers) for headers in credentials))
        assert Counter(reply.status for reply in replies)[429] > PER_SOURCE
        assert len(denials(path)) == PER_SOURCE
    lines = denials(path)
    assert count(lines) == failures
    assert [(line["remote"], line["count"]) for line in lines if "count" in line] == [("127.0.0.1", 40)]


@pytest.mark.parametrize("network", ["2001:db8::{:x}", "2001:db8:0:{:x}::1"])
def test_ipv6_network_counts_as_one_address_and_all_are_bounded(tmp_path: Path, clock: FakeClock, network: str) -> None:
    path = tmp_path / "audit.log"
    with open_audit_log(str(path), clock=clock) as log:
        assert log is not None
        for number in range(2 * TOTAL):
            token = CURRENT.set(RequestTrace("id", network.format(number)))
            log.denied(Unauthorized("?", invalid=True), None)
            CURRENT.reset(token)
        assert len(denials(path)) == (PER_SOURCE if network.endswith("::{:x}") else TOTAL)
        for limit in log.limits:
            limit.end_window()
    assert count(denials(path)) == 2 * TOTAL


def test_unauthenticated_clients_take_no_lines_from_callers(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "audit.log"
    with open_audit_log(str(path), clock=clock) as log:
        assert log is not None
        for _ in range(2 * PER_SOURCE):
            log.denied(Unauthorized("?", invalid=True), None)
            log.denied(Forbidden("read"), Caller("alice", frozenset(SCOPES), "key:4rGcVd0Xq2Lb"))
        for limit in log.limits:
            limit.end_window()
    lines = denials(path)
    assert len([line for line in lines if line.get("caller") and "count" not in line]) == PER_SOURCE
    assert count([line for line in lines if line.get("caller")]) == 2 * PER_SOURCE
    assert count(lines) == 4 * PER_SOURCE


def parse_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.fixture
def _configured() -> Iterator[None]:
    yield
    logs.configure("info", "json")


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("form", ["json", "console"])
async def test_rejected_requests_of_an_address_have_bounded_log_lines(
    capsys: pytest.CaptureFixture[str], form: logs.Form
) -> None:
    logs.configure("info", "json")
    log = access_log.access_log("info", form)
    assert log is not None
    for status in (401, 421, 429, 200):
        for number in range(PER_SOURCE):
            log("GET", PATH, status, 0.1, "id", f"2001:db8::{number:x}", None)
    log.limit.end_window()
    await asyncio.sleep(0)  # JSON lines are written at the end of the turn
    text = capsys.readouterr().err
    statuses = re.findall(rf'(?:"status": |{PATH} )(\d+)', text)
    assert Counter(status == "200" for status in statuses) == {True: PER_SOURCE, False: PER_SOURCE}
    lines = parse_lines(text)
    (further,) = [line for line in lines if line["event"] == "further rejected requests"]
    assert (further["count"], further["remote"]) == (2 * PER_SOURCE, "2001:db8::/64")


@pytest.mark.slow
async def test_lines_about_malformed_requests_are_bounded(tmp_path: Path, server: str) -> None:
    """Other events are limited in the same way, for every logger."""
    request_count = logs.PER_EVENT + 20
    with service(tmp_path, "--log-format", "json", "--no-access-log", "--server", server) as running:
        for _ in range(request_count):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(b"nonsense\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
        running.stop()
        lines = parse_lines(running.log.read_text())
    (summary,) = [line for line in lines if line["event"].startswith("too many log lines")]
    events = Counter(f"{line['logger']}: {line['event']}"[:SOURCE_CHARACTERS] for line in lines)
    ((event, number),) = events.most_common(1)
    assert number == logs.PER_EVENT
    assert summary["count"] == request_count - number
    assert summary["of"].split()[0] == event.split()[0]


@pytest.mark.usefixtures("_configured")
def test_all_errors_of_the_audit_log_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """These lines contain the audit lines that could not be written."""
    logs.configure("info", "json")
    for _ in range(logs.PER_EVENT + 1):
        structlog.get_logger(logs.AUDIT).info("audit line not written")
        structlog.get_logger("guidsvc.example").info("example")
    events = Counter(line["event"] for line in parse_lines(capsys.readouterr().err))
    assert events == {"audit line not written": logs.PER_EVENT + 1, "example": logs.PER_EVENT}


async def test_end_of_a_window_is_reported_without_another_line(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidsvc.monitoring.logs.line_limit.WINDOW_SECONDS", 0.5)
    monkeypatch.setattr("guidsvc.monitoring.logs.line_limit.LOOK_SECONDS", 0.05)
    path, failures = tmp_path / "audit.log", 2 * PER_SOURCE
    async with serving(access="keys", audit_log=str(path), login_limit="") as client:
        clients = [Client(client.port) for _ in range(2)]
        await asyncio.gather(*(other_client.get(PATH) for other_client in clients for _ in range(PER_SOURCE)))
        async with asyncio.timeout(20):
            while count(denials(path)) < failures:
                await asyncio.sleep(0.05)
        for other_client in clients:
            await other_client.aclose()
