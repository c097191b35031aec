"""`check`: it measures, counts errors, and leaves nothing behind."""

import signal
from pathlib import Path

from guidsvc_client import Client
from tests.support.backing_servers import START_SECONDS, Service, service, wait_until
from tests.support.command_line import CommandLine, StartedCommand
from tests.support.guarded_service import GuardedService

USER = "guidsvc check"


def leftovers(url: str) -> int:
    """Count the records of the check."""
    with Client(url) as client:
        return client.list(user=USER, state="all").total()


def start_check(folder: Path, url: str, seconds: str) -> StartedCommand:
    """Start a check, and return when several of its clients have created a record. Before, one has tried once."""
    started = CommandLine(folder, url).start("check", "--seconds", seconds)
    with Client(url) as client:
        wait_until(lambda: client.list(user=USER).total() > 1, "two records", started.err)
    return started


def test_check_measures_and_deletes_its_records(cli: CommandLine, running: Service) -> None:
    create, read, delete = cli.ok("check", "--seconds", "1").lines

    assert [each["operation"] for each in (create, read, delete)] == ["create", "read", "delete"]
    assert create["count"] == delete["count"] > 0
    assert read["count"] == 10 * create["count"]
    for row in (create, read, delete):
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["errors"] == {}
    assert leftovers(running.url) == 0


def test_interrupted_check_deletes_its_records(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        check = start_check(tmp_path, running.url, "600")
        check.process.send_signal(signal.SIGINT)
        assert check.process.wait(START_SECONDS) == 130
        assert leftovers(running.url) == 0


def test_errors_are_counted_by_code(tmp_path: Path) -> None:
    """The service stops during the check."""
    with service(tmp_path) as running:
        check = start_check(tmp_path, running.url, "3")
        running.stop()
        assert check.process.wait(2 * START_SECONDS) == 1
    assert '"Unreachable": ' in check.out.read_text()


def test_key_that_may_not_write_ends_the_check(guarded: GuardedService, tmp_path: Path) -> None:
    with Client(guarded.service.url, key=guarded.key) as client:
        reader = client.keys.create("alice", {"read"})
    done = CommandLine(tmp_path, guarded.service.url, GUIDSVC_KEY=reader.key)("check", "--seconds", "600")

    assert (done.code, done.out) == (5, "")
    assert "`guidsvc whoami` shows what the key may do" in done.err
