"""`export` and `import`: round trips, conflicts, invalid lines, and kills in the middle."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from guidsvc.cli.remote.transfer.journal import Journal
from guidsvc.errors import StartError
from guidsvc_client import Client
from tests.support.backing_servers import ROOT, START_SECONDS, Service, wait_until
from tests.support.command_line import CommandLine

EXPIRE = "4102444800"
LINES = 9000
"""The lines of an import that is to be killed before its end: nine batches."""


def guid_of(number: int) -> str:
    """Return a GUID that is made of a number."""
    return UUID(int=number).hex.upper()


def record(number: int, **members: Any) -> dict[str, Any]:
    """Return a record that is made of a number."""
    return {"guid": guid_of(number), "user": f"user {number}", "expire": EXPIRE, "metadata": {"n": number}, **members}


def write_lines(path: Path, records: Sequence[object]) -> str:
    """Write a file of lines, and return its path."""
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in records))
    return str(path)


@pytest.fixture
def line(empty: Service, tmp_path: Path) -> CommandLine:
    """Commands against it."""
    return CommandLine(tmp_path, empty.url)


def stored(url: str) -> dict[str, Any]:
    """Return all records of a service by GUID: user, expiry and metadata."""
    with Client(url) as client:
        return {each.guid: (each.user, str(each.expire), dict(each.metadata)) for each in client.stream(state="all")}


def expected(numbers: range) -> dict[str, Any]:
    """Return what is stored of these records."""
    return {guid_of(each): (f"user {each}", EXPIRE, {"n": each}) for each in numbers}


def counts(**given: int) -> dict[str, int]:
    """Return the counts that an import prints."""
    return dict.fromkeys(("created", "updated", "unchanged", "skipped", "conflict", "failed"), 0) | given


def test_500_records_go_from_one_service_to_another(running: Service, line: CommandLine, tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        {"metadata": {}},
        {"metadata": {"text": "é\u2028\x00\u202e"}},
        {"expire": "0"},
        {"user": "ü"},
    ]
    source = write_lines(tmp_path / "source", [record(each, **odd[each % 4]) for each in range(500)])
    first = CommandLine(tmp_path, running.url)
    assert first.ok("import", source).json == counts(created=500)
    exported = first.ok("export", str(tmp_path / "all.ndjson"))
    assert (exported.out, exported.err) == ("", "guidsvc: 500 records are exported\n")

    assert line.ok("import", str(tmp_path / "all.ndjson")).json == counts(created=500)
    assert stored(line.variables["GUIDSVC_URL"]) == stored(running.url)
    assert len(stored(running.url)) == 500
    text = (tmp_path / "all.ndjson").read_text()
    assert sorted(line.ok("export", "-").out.splitlines()) == sorted(text.splitlines())
    assert line.ok("import", "-", stdin=text).json == counts(updated=500)


def test_import_removes_metadata_that_the_export_did_not_have(line: CommandLine, tmp_path: Path) -> None:
    before = line.ok("put", "--user", "a").json
    line.ok("export", str(tmp_path / "all"))
    line.ok("put", before["guid"], "--user", "b", "--metadata", '{"n": 1}')

    assert line.ok("import", str(tmp_path / "all")).json == counts(updated=1)
    assert line.ok("get", before["guid"]).json == before


def test_export_selects(line: CommandLine, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in", [record(1), record(2, user="a"), record(3, user="a", expire="0")])
    line.ok("import", lines)

    assert len(line.ok("export", "-", "--user", "a").lines) == 2
    assert [each["guid"] for each in line.ok("export", "-", "--user", "a", "--state", "live").lines] == [guid_of(2)]


def test_export_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "all.ndjson"
    target.write_text("before")
    done = CommandLine(tmp_path, "http://127.0.0.1:1")("export", str(target))

    assert done.code == 6
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["all.ndjson"]


@pytest.mark.parametrize("target", ["nowhere/file", "/dev/full", "."])
def test_file_that_cannot_be_written_is_reported(line: CommandLine, target: str) -> None:
    line.ok("put", "--user", "a")
    done = line("export", target)

    assert done.code == 1
    assert f"{target} cannot be written: " in done.err


POLICIES = {
    "overwrite": (counts(created=1, updated=2), "user 2", 0),
    "skip": (counts(created=1, skipped=2), "other", 0),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_conflict_is_handled_as_asked(line: CommandLine, tmp_path: Path, policy: str) -> None:
    done, user, code = POLICIES[policy]
    line.ok("import", write_lines(tmp_path / "before", [record(1), record(2, user="other")]))
    lines = write_lines(tmp_path / "in", [record(each) for each in (1, 2, 3)])

    checked = line("import", lines, "--on-conflict", policy, "--dry-run")
    assert (checked.code, checked.json) == (code, done)
    assert checked.err.endswith("guidsvc: nothing was changed: this was a dry run\n")
    assert line.ok("get", guid_of(2)).json["user"] == "other"
    assert line("get", guid_of(3)).code == 3
    imported = line("import", lines, "--on-conflict", policy)
    assert (imported.code, imported.json) == (code, done)
    assert "dry run" not in imported.err
    assert line.ok("get", guid_of(2)).json["user"] == user
    exported = line.ok("export", str(tmp_path / "out"), "--user", "other")
    assert exported.err == f"guidsvc: {'1 record is' if user == 'other' else '0 records are'} exported\n"


def test_conflict_stops_an_import_with_on_conflict_fail(line: CommandLine, tmp_path: Path) -> None:
    """A record that equals its line is not a conflict. Once the other record is gone, the import continues."""
    line.ok("import", write_lines(tmp_path / "before", [record(1), record(2, user="other")]))
    lines = write_lines(tmp_path / "in", [record(each) for each in range(1, 1501)])
    checked = line("import", lines, "--on-conflict", "fail", "--dry-run")
    assert (checked.code, checked.json) == (4, counts(created=1498, unchanged=1, conflict=1))

    stopped = line("import", lines, "--on-conflict", "fail")
    assert (stopped.code, stopped.out) == (4, "")
    assert f"line 2: {guid_of(2)} exists with other members" in stopped.err
    assert "continue with the same command and --resume" in stopped.err
    assert len(stored(line.variables["GUIDSVC_URL"])) == 1000
    assert line("import", lines, "--on-conflict", "fail", "--resume").code == 4

    line.ok("rm", guid_of(2))
    done = line.ok("import", lines, "--on-conflict", "fail", "--resume")
    assert done.json == counts(created=1499, unchanged=1)
    assert stored(line.variables["GUIDSVC_URL"]) == expected(range(1, 1501))


def test_invalid_lines_are_named_and_the_others_imported(line: CommandLine, tmp_path: Path) -> None:
    faults = {
        2: ("oops", "is not JSON"),
        3: ("[]", "must be a JSON object"),
        4: ('{"user": "a"}', "has no guid"),
        5: ('{"guid": "x"}', "is not a GUID"),
        6: (record(6, user=" "), "must not be blank"),
        7: (record(7, expire="soon"), "expire must be a whole number"),
        8: (record(8, expire=None), "expire must be a whole number"),
        9: (record(9, colour="red"), "is not a known member"),
        10: (record(10, op="delete"), "has op"),
        11: (record(11, metadata={"a": "x" * 70_000}), "more than 65536 bytes"),
        12: (f'{{"guid": "{guid_of(12)}", "user": "\\ud800"}}', "must be UTF-8"),
        13: (record(13, metadata=[]), "object"),
    }
    records: list[object] = [record(1), *(each for each, _ in faults.values()), "", record(14)]
    lines = write_lines(tmp_path / "in", records)
    for words in (["--dry-run"], []):
        done = line("import", lines, *words)
        assert (done.code, done.json) == (1, counts(created=2, failed=len(faults)))
        for number, (_, fault) in faults.items():
            (named,) = [each for each in done.err.splitlines() if f"line {number}: " in each]
            assert fault in named
    assert stored(line.variables["GUIDSVC_URL"]).keys() == {guid_of(1), guid_of(14)}


def test_many_faults_are_counted_and_not_shown(line: CommandLine, tmp_path: Path) -> None:
    done = line("import", write_lines(tmp_path / "in", ["oops"] * 2500))

    assert (done.code, done.json) == (1, counts(failed=2500))
    assert len(done.err.splitlines()) == 21


def test_batch_with_too_many_objects_is_divided(line: CommandLine, tmp_path: Path) -> None:
    """A document may have 50,000 objects and lists."""
    metadata: dict[str, Any] = {f"m{each}": {} for each in range(120)}
    lines = write_lines(tmp_path / "in", [record(each, metadata=metadata) for each in range(1000)])

    assert line.ok("import", lines).json == counts(created=1000)


class ImportProcess:
    """`guidsvc import` as a process of its own, which is killed when it has come far enough."""

    def __init__(self, line: CommandLine, *words: str) -> None:
        self._state = Path(line.variables["XDG_STATE_HOME"], "guidsvc", "imports")
        self.process, self.out, self.err = line.start("import", *words)

    def line(self) -> int:
        """Return how many lines are noted as done."""
        for path in self._state.glob("*.json"):
            return int(json.loads(path.read_text())["place"]["line"])
        return -1

    def kill_after(self, line: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal after so many lines, and return the exit code."""
        wait_until(lambda: self.line() >= line, f"line {line}", self.err)
        self.process.send_signal(number)
        return self.process.wait(START_SECONDS)


def changes(url: str) -> dict[str, list[str]]:
    """Return the types of the events of each GUID."""
    found: dict[str, list[str]] = {}
    with Client(url) as client:
        for event in client.events(follow=False):
            found.setdefault(event.guid, []).append(event.type)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["overwrite", "fail"])
def test_import_goes_on_after_kills_and_does_nothing_twice(
    line: CommandLine, empty: Service, tmp_path: Path, policy: str
) -> None:
    lines = write_lines(tmp_path / "in", [record(each) for each in range(LINES)])
    words = [lines, "--on-conflict", policy, "--resume"]
    for after in (0, 1000, 3000):
        assert ImportProcess(line, *words).kill_after(after) == -signal.SIGKILL
    assert 0 < len(stored(empty.url)) < LINES

    done = line.ok("import", *words)
    assert "continuing after line" in done.err
    assert sum(done.json.values()) == LINES
    assert stored(empty.url) == expected(range(LINES))
    assert set(map(tuple, changes(empty.url).values())) == {("guid.created",)}
    assert "nothing to resume" in line.ok("import", lines, "--on-conflict", "skip", "--resume").err


def test_interrupted_import_prints_how_to_continue(line: CommandLine, empty: Service, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in", [*(record(each) for each in range(LINES)), "oops"])
    process = ImportProcess(line, lines)
    assert process.kill_after(1000, signal.SIGINT) == 130
    assert "lines are done; continue with the same command and --resume" in process.err.read_text()

    noted = line("import", lines, "--dry-run")
    assert "resume" not in noted.err
    done = line("import", lines, "--resume")
    assert (done.code, done.json) == (1, counts(created=LINES, failed=1))
    assert f"line {LINES + 1}: is not JSON" in done.err
    assert stored(empty.url) == expected(range(LINES))


def test_import_continues_after_a_kill_of_the_service(line: CommandLine, empty: Service, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in", [record(each) for each in range(LINES)])
    process = ImportProcess(line, lines, "--on-conflict", "fail")
    wait_until(lambda: process.line() >= 1000, "the first batch", process.err)
    empty.kill()
    assert process.process.wait(2 * START_SECONDS) == 6
    assert "lines are done; continue with the same command and --resume" in process.err.read_text()

    empty.start()
    assert line.ok("import", lines, "--on-conflict", "fail", "--resume").code == 0
    assert stored(empty.url) == expected(range(LINES))


def test_changed_file_is_not_resumed(line: CommandLine, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in", [record(each) for each in range(LINES)])
    ImportProcess(line, lines).kill_after(1000)
    write_lines(tmp_path / "in", [record(each + 1) for each in range(LINES)])
    done = line("import", lines, "--resume")

    assert done.code == 1
    assert "was changed since; import it again without --resume" in done.err


@pytest.mark.parametrize(
    ("words", "code", "fault"),
    [
        (["-", "--resume"], 2, "--resume needs a file"),
        (["nowhere"], 1, "nowhere cannot be read"),
        ([".", "--dry-run"], 1, ". cannot be read"),
        (["x", "--on-conflict", "maybe"], 2, "invalid choice"),
        (["loop"], 1, "loop cannot be read: Too many levels of symbolic links; name another file"),
        (["loop/x", "--resume"], 1, "loop/x cannot be read: Too many levels of symbolic links; name another file"),
        (["/proc/self/mem"], 1, "/proc/self/mem cannot be read: Input/output error; name another file"),
    ],
)
def test_wrong_import_is_reported(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    done = cli("import", *words)

    assert (done.code, done.out) == (code, "")
    assert fault in done.err


def test_file_whose_name_is_no_text_is_imported(line: CommandLine, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "\udcff", [record(0)])

    assert line.ok("import", lines).json == counts(created=1)
    assert line.ok("import", lines, "--resume").json == counts(updated=1)


@pytest.mark.parametrize("words", [("import", "-"), ("put", "-")])
def test_standard_input_that_cannot_be_read_is_reported(tmp_path: Path, words: tuple[str, ...]) -> None:
    unreadable = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        command = [sys.executable, str(ROOT / "pdapt.py"), *words, "--url", "http://127.0.0.1:9"]
        done = subprocess.run(command, cwd=tmp_path, stdin=unreadable, capture_output=True, text=True, check=False)
    finally:
        os.close(unreadable)

    assert (done.returncode, done.stdout) == ((1 if words[0] == "import" else 2), "")
    assert "standard input cannot be read: Bad file descriptor; name another file" in done.stderr
    assert "Traceback" not in done.stderr


def test_unreadable_journal_is_reported(line: CommandLine, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "in", [record(each) for each in range(LINES)])
    ImportProcess(line, lines).kill_after(1000)
    folder = Path(line.variables["XDG_STATE_HOME"], "guidsvc", "imports")
    (journal,) = folder.glob("*.json")
    place = json.loads(journal.read_text())["place"]
    wrong: dict[str, tuple[Any, ...]] = {name: (None, [], {}, "x", -1, 0.5, True, {"created": 1}) for name in place}
    others = [{"place": place | {name: value}} for name, values in wrong.items() for value in values]
    assert len(wrong) == 5
    fault, unread = "it is not what an import wrote; start without --resume", Journal("", Path(lines))
    unread.path = journal
    for text in ("{", "[" * 5000, *map(json.dumps, [place, {"place": []}, *others])):
        journal.write_text(text)
        with pytest.raises(StartError, match=fault):
            unread.load()
    done = line("import", lines, "--resume")
    assert done.code == 1
    assert fault in done.err
    assert line.ok("import", lines).json["failed"] == 0
    assert line.ok("ls", "--count").out == f"{LINES}\n"
