"""`edit`: an editor that is a script; conflicts and invalid texts, of which nothing is lost."""

import asyncio
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from guidsvc_client import Client
from tests.support.backing_servers import Service
from tests.support.command_line import CommandLine, CommandResult
from tests.support.etag_proxy import REMOVED, WEAK, etag_proxy
from tests.support.factories import GUID
from tests.support.scripted_server import RESET, Request, problem, response, scripted_server


@pytest.fixture
def guid(cli: CommandLine) -> str:
    """The GUID of a record."""
    words = ["put", "--user", "alice", "--expire", "2100-01-01", "--metadata", '{"n": 1}']
    return str(cli.ok(*words).json["guid"])


@pytest.fixture(autouse=True)
def drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "drafts"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def editor(folder: Path, script: str) -> str:
    """Return an editor that does what a script says with the file "$1"."""
    path = folder / "editor.sh"
    path.write_text(script)
    return f"sh {shlex.quote(str(path))}"


def draft_of(done: CommandResult) -> Path:
    """Return the file that keeps what was typed."""
    found = re.search(r"Your text is in (\S+);", done.err)
    assert found is not None, done.err
    return Path(found[1])


def test_edited_text_is_written(cli: CommandLine, guid: str, tmp_path: Path, drafts: Path) -> None:
    script = """grep -q '"expire": "2100-01-01T00:00:00Z"' "$1" || exit 1
    sed -i 's/alice/bob/; s/2100-01-01/2101-01-01/; s/"n": 1/"m": 2/' "$1"
    """
    done = cli.ok("edit", guid, EDITOR=editor(tmp_path, script))

    assert done.json == {"guid": guid, "user": "bob", "expire": "4133980800", "metadata": {"m": 2}}
    assert cli.ok("get", guid).json == done.json
    assert list(drafts.iterdir()) == []


def test_unchanged_text_writes_nothing(cli: CommandLine, guid: str, drafts: Path) -> None:
    version = cli.ok("get", guid, "--full").json["version"]
    done = cli.ok("edit", guid, EDITOR="true")

    assert (done.out, done.err) == ("", f"guidsvc: {guid} is not changed\n")
    assert cli.ok("get", guid, "--full").json["version"] == version
    assert list(drafts.iterdir()) == []


def test_conflict_is_shown_and_the_text_is_not_lost(
    cli: CommandLine, guid: str, tmp_path: Path, running: Service, drafts: Path
) -> None:
    """Another client changes the record while the editor is open."""
    other = tmp_path / "other"
    other.mkdir()
    line = shlex.join(["curl", "--silent", "--request", "PUT", "--data", '{"metadata": {"n": 2}}'])
    script = f"""sed -i 's/alice/bob/' "$1"; {line} {running.url}/guid/{guid} > {other}/out"""
    done = cli("edit", guid, EDITOR=editor(tmp_path, script))
    draft = draft_of(done)

    assert done.code == 4
    assert "somebody else has changed the record" in done.err
    assert '-    "n": 1' in done.err
    assert '+    "n": 2' in done.err
    assert '"user": "bob"' in draft.read_text()
    assert draft.stat().st_mode & 0o077 == 0
    assert cli.ok("get", guid).json["user"] == "alice"

    again = cli.ok("edit", guid, "--file", str(draft), EDITOR="true")
    assert (again.json["user"], again.json["metadata"]) == ("bob", {"n": 2})
    assert list(drafts.iterdir()) == []


@pytest.mark.parametrize("tags", [WEAK, REMOVED])
def test_conflict_is_noticed_behind_a_proxy_that_hides_versions(
    cli: CommandLine, guid: str, tmp_path: Path, running: Service, tags: str
) -> None:
    line = shlex.join(["curl", "--silent", "--request", "PUT", "--data", '{"metadata": {"n": 2}}'])
    script = f"""sed -i 's/alice/bob/' "$1"; {line} {running.url}/guid/{guid} > {tmp_path}/out"""
    with etag_proxy(running.port, tags) as url:
        done = cli("edit", guid, EDITOR=editor(tmp_path, script), GUIDSVC_URL=url)
        current = cli.ok("get", guid).json
        again = cli.ok("edit", guid, "--file", str(draft_of(done)), EDITOR="true", GUIDSVC_URL=url)

    assert (done.code, "somebody else has changed the record" in done.err) == (4, True)
    assert (current["user"], current["metadata"]) == ("alice", {"n": 2})
    assert (again.json["user"], again.json["metadata"]) == ("bob", {"n": 2})


@pytest.mark.parametrize("tags", [WEAK, REMOVED])
def test_curl_of_edit_writes_nothing_without_a_version(
    cli: CommandLine, guid: str, tmp_path: Path, running: Service, tags: str
) -> None:
    with etag_proxy(running.port, tags) as url:
        script = cli.ok("edit", guid, "--curl", GUIDSVC_URL=url).out
        environment = os.environ | {"EDITOR": editor(tmp_path, """sed -i 's/alice/bob/' "$1" """)}
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert done.returncode != 0
    assert "the response has no strong ETag" in done.stderr
    assert cli.ok("get", guid).json["user"] == "alice"


def test_change_after_a_conflict_is_a_conflict_again(cli: CommandLine, guid: str, tmp_path: Path) -> None:
    """A draft continues from the version that it was merged with."""
    script = """sed -i 's/"n": 1/"n": 3,\\n    "mine": 1/' "$1"; exit 3"""
    draft = draft_of(cli("edit", guid, EDITOR=editor(tmp_path, script)))
    cli.ok("patch", guid, "--metadata", '{"n": 2, "other": 5}')
    first = cli("edit", guid, "--file", str(draft), EDITOR="true")
    cli.ok("patch", guid, "--user", "carol")
    second = cli("edit", guid, "--file", str(draft), EDITOR="true")

    assert (first.code, second.code) == (4, 4)
    assert "It has your values of metadata.n, which both sides changed." in first.err
    assert '+  "user": "carol"' in second.err
    assert cli.ok("get", guid).json["metadata"] == {"n": 2, "other": 5}
    last = cli.ok("edit", guid, "--file", str(draft), EDITOR="true").json
    assert (last["user"], last["metadata"]) == ("carol", {"n": 3, "mine": 1, "other": 5})


def test_metadata_that_a_draft_drops_are_removed(cli: CommandLine, guid: str, tmp_path: Path) -> None:
    script = """echo '{"user": "bob"}' > "$1" """

    assert "metadata" not in cli.ok("edit", guid, EDITOR=editor(tmp_path, script)).json


def test_file_without_metadata_does_not_clear_them(cli: CommandLine, guid: str, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"user": "bob"}')

    done = cli.ok("edit", guid, "--file", str(own), EDITOR="true")
    assert (done.json["user"], done.json["metadata"]) == ("bob", {"n": 1})
    assert own.exists()


def test_draft_of_another_record_is_refused(cli: CommandLine, guid: str, tmp_path: Path) -> None:
    script = 'echo typed > "$1"'
    draft = draft_of(cli("edit", guid, EDITOR=editor(tmp_path, script)))
    other = cli.ok("put", "--user", "alice", "--expire", "2100-01-01").json["guid"]
    done = cli("edit", other, "--file", str(draft), EDITOR="true")

    assert (done.code, done.out) == (1, "")
    assert f"it is a text for {guid}; name that GUID, or another file" in done.err


def test_damaged_base_of_a_draft_is_named(cli: CommandLine, guid: str, tmp_path: Path) -> None:
    draft = draft_of(cli("edit", guid, EDITOR=editor(tmp_path, 'echo typed > "$1"')))
    base = draft.with_name(f"{draft.name}.base")
    members = json.loads(base.read_text())
    others = [
        members | {name: value}
        for name, value in (("version", []), ("version", None), ("version", True), ("guid", 1), ("text", 1))
    ]
    for text in ("{", "[" * 5000, *map(json.dumps, [[members], *others])):
        base.write_text(text)
        done = cli("edit", guid, "--file", str(draft), EDITOR="true")

        assert (done.code, done.out) == (1, "")
        assert f"{base} is damaged; remove it to write the whole text" in done.err


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ('echo oops > "$1"', "is not JSON"),
        ("""sed -i 's/"user"/"usr"/' "$1" """, "has usr; the members are user, expire, metadata"),
        ("""sed -i 's/2100-01-01T00:00:00Z/soon/' "$1" """, "has the wrong expire"),
        ("""sed -i 's/alice/ /' "$1" """, "must not be blank"),
        ("""printf '\\377' > "$1" """, "cannot be read: not UTF-8"),
        ('echo typed > "$1"; exit 3', "Editing failed"),
    ],
)
def test_invalid_text_is_not_lost(cli: CommandLine, guid: str, tmp_path: Path, script: str, fault: str) -> None:
    done = cli("edit", guid, EDITOR=editor(tmp_path, script))

    assert (done.code, done.out) == (1, "")
    assert fault in done.err
    assert draft_of(done).exists()
    assert cli.ok("get", guid).json["user"] == "alice"


@pytest.mark.parametrize(("user", "code"), [("bob", 0), ("carol", 7)])
async def test_edit_without_a_response_is_done_if_the_record_is_so(
    tmp_path: Path, drafts: Path, user: str, code: int
) -> None:
    record = {"guid": GUID, "expire": "4102444800", "user": "alice"}
    times = dict.fromkeys(("created", "updated", "purge_at"), "4102444800")

    def answer(request: Request) -> bytes | None:
        if request.method == "GET":
            return response(200, json.dumps(record | times | {"version": "7", "state": "live"}).encode(), ETag='"7"')
        if len(server.requests) == 2:
            return RESET
        return problem("precondition-failed", 412, {"record": record | {"user": user}}, ETag='"8"')

    async with scripted_server(answer) as server:
        cli = CommandLine(tmp_path, server.url, EDITOR=editor(tmp_path, """sed -i s/alice/bob/ "$1"\n"""))
        done = await asyncio.to_thread(cli, "edit", GUID)
    assert done.code == code, done.err
    assert [path.read_text().count("bob") for path in drafts.rglob("*.json")] == ([] if code == 0 else [1])


UNTIL_EXPIRED = """while true; do
    status=$(curl -s -o /dev/null -w '%{{http_code}}' {url})
    [ "$status" = 200 ] || break
    sleep 0.05
done
"""


@pytest.mark.parametrize("change", ["s/alice/bob/", "s/alice/bob/; /expire/d"])
def test_edit_does_not_revive_a_record(cli: CommandLine, running: Service, tmp_path: Path, change: str) -> None:
    """It expires while the editor is open, without a change of its version."""
    guid = cli.ok("put", "--user", "alice", "--ttl", "2s").json["guid"]
    script = UNTIL_EXPIRED.format(url=f"{running.url}/guid/{guid}") + f"sed -i '{change}' \"$1\"\n"
    done = cli("edit", guid, EDITOR=editor(tmp_path, script))

    assert done.code == 3, done.err
    assert "expired at" in done.err
    assert "bob" in draft_of(done).read_text()
    assert cli("get", guid).code == 3
    assert cli.ok("renew", guid, "--ttl", "1h", "--revive").json["renewed"] is True
    assert cli.ok("get", guid).json["user"] == "alice"


def test_edit_with_a_new_expiry_makes_a_record_valid(cli: CommandLine, running: Service, tmp_path: Path) -> None:
    guid = cli.ok("put", "--user", "alice", "--ttl", "2s").json["guid"]
    change = """sed -i 's/"expire": "[^"]*"/"expire": "2100-01-01"/' "$1"\n"""
    script = UNTIL_EXPIRED.format(url=f"{running.url}/guid/{guid}") + change

    assert cli.ok("edit", guid, EDITOR=editor(tmp_path, script)).json["expire"] == "4102444800"


def test_missing_editor_is_an_error(cli: CommandLine, guid: str, drafts: Path) -> None:
    done = cli("edit", guid, EDITOR="/nowhere/editor")

    assert done.code == 1
    assert "set VISUAL or EDITOR" in done.err
    assert "Your text" not in done.err
    assert list(drafts.iterdir()) == []


def test_editor_of_the_system_needs_a_terminal(
    cli: CommandLine, guid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one it would wait forever."""
    (tmp_path / "sensible-editor").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "sensible-editor").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = cli("edit", guid)

    assert (done.code, done.out) == (2, "")
    assert "an editor needs a terminal; set VISUAL or EDITOR" in done.err


def test_text_is_not_lost_if_the_service_stops(cli: CommandLine, guid: str, tmp_path: Path) -> None:
    """The record is read, and then there is nothing to write to."""
    script = """sed -i 's/alice/bob/' "$1" """
    cli.variables["EDITOR"] = editor(tmp_path, script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "put", _refused)
        done = cli("edit", guid)

    assert done.code == 6
    assert '"user": "bob"' in draft_of(done).read_text()


def _refused(client: Client, *_: object, **__: object) -> None:
    Client("http://127.0.0.1:1", retries=0).get("0" * 32)
