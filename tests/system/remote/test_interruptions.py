"""What a command does when it is ended, or its key or quota ends, in the middle of many records."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import pytest

from guidsvc.cli.remote.transfer.journal import Journal, new_place
from guidsvc_client import Client, Result
from tests.support.backing_servers import START_SECONDS, Service, pdapt, service, wait_until
from tests.support.command_line import CommandLine
from tests.support.forked_shell import run_program
from tests.support.killed_program import run_until_killed


def write_lines(path: Path, count: int, **members: Any) -> str:
    """Write a file of records whose GUIDs count from 0, and return its path."""
    lines = [{"guid": UUID(int=number).hex.upper(), "user": "a", **members} for number in range(count)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def event_types(url: str) -> list[str]:
    """Return the types of all events."""
    with Client(url) as client:
        return [event.type for event in client.events(follow=False)]


def test_batch_whose_response_is_lost_is_not_executed_again(
    empty: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between the commit of the second batch and its note. A life from now shows each execution."""
    cli = CommandLine(tmp_path, empty.url)
    lines = write_lines(tmp_path / "in", 2500, ttl=3600)
    batch, calls = Client.batch, []

    def dying_batch(client: Client, operations: Any, **options: Any) -> Sequence[Result]:
        results = batch(client, operations, **options)
        calls.append(results)
        if len(calls) == 2:
            raise SystemExit(9)
        return results

    with monkeypatch.context() as patch:
        patch.setattr(Client, "batch", dying_batch)
        assert cli("import", lines).code == 9
    assert len(event_types(empty.url)) == 2000

    done = cli.ok("import", lines, "--resume")
    assert (done.json["created"], done.json["updated"]) == (2500, 0)
    assert event_types(empty.url) == ["guid.created"] * 2500


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["overwrite", "fail"])
def test_import_without_space_for_receipts_puts_one_by_one(tmp_path: Path, policy: str) -> None:
    lines = write_lines(tmp_path / "in", 200)
    with service(tmp_path, "--receipt-bytes-per-owner", "600") as running:
        cli = CommandLine(tmp_path, running.url)
        words = ["import", lines, "--on-conflict", policy]
        assert cli.ok(*words, "--resume").json["failed"] == 0
        assert cli.ok("ls", "--count").out == "200\n"
        again = cli.ok(*words).json
        assert again["updated" if policy == "overwrite" else "unchanged"] == 200


def test_import_stops_at_a_quota_and_goes_on_after_it(tmp_path: Path) -> None:
    """The batch that the quota has stopped gets other results when there is room."""
    key = pdapt(tmp_path, "keys", "create", "--new-store", "--owner", "a").stdout.strip()
    lines = write_lines(tmp_path / "in", 1500)
    with service(tmp_path, "--access", "keys", "--quota", "1600") as running, Client(running.url, key=key) as client:
        cli = CommandLine(tmp_path, running.url, GUIDSVC_KEY=key)
        others = [result.guid for result in client.put_many({"user": "other"} for _ in range(200))]
        stopped = cli("import", lines, "--on-conflict", "fail", "--resume")
        assert (stopped.code, stopped.out) == (5, "")
        assert "quota-exceeded" in stopped.err
        assert "1000 lines are done; continue with the same command and --resume" in stopped.err

        client.batch({"op": "delete", "guid": guid or ""} for guid in others)
        assert sum(cli.ok("import", lines, "--on-conflict", "fail", "--resume").json.values()) == 1500
        assert cli.ok("ls", "--count").out == "1500\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_export_leaves_no_part_of_a_file(empty: Service, tmp_path: Path, number: signal.Signals) -> None:
    cli = CommandLine(tmp_path, empty.url)
    cli.ok("import", write_lines(tmp_path / "in", 3000, metadata={"text": "x" * 8000}))
    folder = tmp_path / "out"
    folder.mkdir()
    process, _, err = cli.start("export", str(folder / "all"))
    wait_until(lambda: any(folder.glob(".all.*.part")), "a part", err)
    process.send_signal(number)

    assert process.wait(START_SECONDS) == 128 + number
    assert list(folder.iterdir()) == []


KILLED_WRITERS = {
    "export": """
import os, sys
from guidsvc.cli.remote.transfer import exporting
os.fsync = kill
with exporting._opened_file(exporting.Path(sys.argv[1]) / "monday") as write: write("half")
""",
    "import": """
import os, sys
from pathlib import Path
from guidsvc.cli.remote.transfer.journal import Journal, new_place
journal, os.fsync = Journal("", Path()), kill
journal.path = Path(sys.argv[1]) / "in.json"
journal.save(new_place())
""",
}


def test_file_of_a_killed_export_is_removed_by_the_next(running: Service, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    run_until_killed(KILLED_WRITERS["export"], str(folder))
    assert list(folder.iterdir()) != []
    CommandLine(tmp_path, running.url).ok("export", str(folder / "tuesday"))

    assert list(folder.iterdir()) == [folder / "tuesday"]


def test_file_of_a_killed_import_is_removed_by_the_next(tmp_path: Path) -> None:
    run_until_killed(KILLED_WRITERS["import"], str(tmp_path))
    assert list(tmp_path.iterdir()) != []
    journal = Journal("", tmp_path / "in")
    journal.path = tmp_path / "other.json"
    journal.save(new_place())

    assert list(tmp_path.iterdir()) == [journal.path]


def test_export_interrupted_as_its_file_appears_leaves_none(
    running: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def interrupted(path: str, flags: int, mode: int = 0o777, **options: Any) -> int:
        descriptor = open_file(path, flags, mode, **options)
        if str(path).endswith(".part"):
            os.close(descriptor)
            raise KeyboardInterrupt
        return descriptor

    folder = tmp_path / "out"
    folder.mkdir()
    cli = CommandLine(tmp_path, running.url)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", interrupted)
        with pytest.raises(click.Abort):
            cli("export", str(folder / "all"))

    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_progress_is_shown_on_a_terminal(empty: Service, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in", 3000)
    for words in (["import", lines], ["export", str(tmp_path / "all")], ["check", "--seconds", "1"]):
        for flags, is_shown in (([], True), (["--quiet"], False)):
            reading, writing = pty.openpty()
            environment = os.environ | {"GUIDSVC_URL": empty.url, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
            assert run_program([*words, *flags], env=environment, stdout=subprocess.DEVNULL, stderr=writing) == 0
            os.close(writing)
            assert (f"{words[0]}  [" in _read(reading)) == is_shown, words
            os.close(reading)


def _read(terminal: int) -> str:
    """Return what was written to a terminal that is closed now."""
    text = b""
    try:
        while piece := os.read(terminal, 65536):
            text += piece
    except OSError:  # EIO: there is no more
        pass
    return text.decode()
