"""`--curl`: each command prints a line that does the same when it is pasted into a shell, and sends nothing itself."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from guidsvc_client import Client
from tests.support.backing_servers import Service
from tests.support.command_line import REMOTE_COMMANDS, CommandLine
from tests.support.guarded_service import GuardedService

SECONDS = 60
Scenario = Callable[["Pasted"], None]


class Pasted:
    """Commands whose lines are run by a shell."""

    def __init__(self, cli: CommandLine, client: Client, key: str) -> None:
        self.cli = cli
        self.client = client
        self.key = key
        self.user = f"user {uuid4().hex}'s"

    def run(self, *words: str, stdin: str = "", code: int = 0, **variables: str) -> str:
        """Let a command print its line, and run that; return what it prints. The shell must end with this code."""
        done = self.cli.ok(*words, "--curl", stdin=stdin)
        assert self.key not in done.out
        assert "$GUIDSVC_KEY" in done.out
        shell = subprocess.run(
            ["/bin/sh", "-c", done.out],
            cwd=self.cli.folder,
            env=os.environ | {"GUIDSVC_KEY": self.key, **variables},
            input=stdin.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert shell.returncode == code, shell.stdout + shell.stderr
        return shell.stdout.decode()

    def json(self, *words: str, stdin: str = "") -> Any:
        """Return the JSON that the line prints."""
        return json.loads(self.run(*words, stdin=stdin))

    def new(self, **members: Any) -> str:
        """Create a record, and return its GUID."""
        return self.client.create(**{"user": self.user, **members}).guid

    def total(self) -> int:
        """Count the records of the user."""
        return self.client.list(user=self.user, state="all").total()


@pytest.fixture
def pasted(guarded: GuardedService, tmp_path: Path) -> Any:
    with Client(guarded.service.url, key=guarded.key) as client:
        yield Pasted(CommandLine(tmp_path, guarded.service.url, GUIDSVC_KEY=guarded.key), client, guarded.key)


def whoami(pasted: Pasted) -> None:
    keys = {"access", "id", "owner", "scopes"}
    shown = pasted.cli.ok("whoami").json
    assert {name: shown[name] for name in keys} == {name: pasted.json("whoami")[name] for name in keys}


def status(pasted: Pasted) -> None:
    assert pasted.json("status")["ready"] is True
    assert pasted.json("status", "--wait", "5s")["ready"] is True


def put(pasted: Pasted) -> None:
    metadata = {"quote": "'\"\\", "odd": "\x1b\u2028é"}
    words = ["put", "--user", pasted.user, "--expire", "2100-01-01", "--metadata", json.dumps(metadata)]
    printed = pasted.cli.ok(*words, "--curl").out
    assert printed.replace("\n", "").replace("é", "").isascii()
    assert "\x1b" not in printed
    assert pasted.total() == 0

    guid = pasted.json(*words)["guid"]
    assert pasted.client.get(guid).metadata == metadata
    given = uuid4().hex.upper()
    assert pasted.json("put", given, "-", stdin=json.dumps({"user": pasted.user}))["guid"] == given
    assert pasted.json("put", given, "--user", "b", "--if-match", "*")["user"] == "b"
    for condition in (["--new"], ["--if-match", "17"]):
        assert "precondition-failed" in pasted.run("put", given, "--user", "c", *condition, code=22)


def get(pasted: Pasted) -> None:
    guid = pasted.new(ttl=3600)
    for options in ([], ["--full"], ["--valid-for", "60"]):
        assert pasted.json("get", guid, *options) == pasted.cli.ok("get", guid, *options).json


def patch(pasted: Pasted) -> None:
    guid = pasted.new(metadata={"a": 1, "b": 2})
    assert pasted.json("patch", guid, "--metadata", '{"a": null}')["metadata"] == {"b": 2}


def rm(pasted: Pasted) -> None:
    guid = pasted.new()
    assert pasted.run("rm", guid) == ""
    assert pasted.cli("get", guid).code == 3


def renew(pasted: Pasted) -> None:
    guid = pasted.new(ttl=60)
    assert pasted.json("renew", guid, "--ttl", "1h", "--at-least", "60")["renewed"] is True
    assert pasted.client.get(guid, valid_for=3000).guid == guid


def revoke(pasted: Pasted) -> None:
    guid = pasted.new()
    assert pasted.json("revoke", guid)["expire"] == "0"
    assert pasted.cli("get", guid).code == 3


def edit(pasted: Pasted) -> None:
    guid = pasted.new(metadata={"n": 1})
    script = pasted.cli.folder / "editor.sh"
    script.write_text("""#!/bin/sh\nsed -i 's/"n":1/"n":2/' "$1"\n""")
    script.chmod(0o700)
    pasted.run("edit", guid, EDITOR=str(script))
    assert pasted.client.get(guid).metadata == {"n": 2}


def ls(pasted: Pasted) -> None:
    for number in range(3):
        pasted.new(ttl=1000 * (number + 1))
    words = ["ls", "--user", pasted.user, "--expires-within", "2500s"]
    assert pasted.json(*words)["items"] == pasted.cli.ok(*words).lines
    assert pasted.json(*words, "--full", "--limit", "1")["items"] == pasted.cli.ok(*words, "--full").lines[:1]
    assert str(pasted.json(*words, "--count")["total"]) == pasted.cli.ok(*words, "--count").out.strip()


def watch(pasted: Pasted) -> None:
    """The stream has no end, so curl is stopped after the first event."""
    pasted.new()
    words = ["watch", "--since", "oldest", "--user", pasted.user, "--type", "guid.created", "--curl"]
    line = pasted.cli.ok(*words).out
    shell = subprocess.Popen(["/bin/sh", "-c", f"exec {line}"], env=os.environ | {"GUIDSVC_KEY": pasted.key}, stdout=-1)
    assert shell.stdout is not None
    with shell:
        event = json.loads(shell.stdout.readline())
        shell.kill()
    assert (event["type"], event["record"]["user"]) == ("guid.created", pasted.user)


def export(pasted: Pasted) -> None:
    guids = {pasted.new() for _ in range(3)}
    assert pasted.run("export", "out file", "--user", pasted.user) == ""
    lines = (pasted.cli.folder / "out file").read_text().splitlines()
    assert {json.loads(line)["guid"] for line in lines} == guids
    assert sorted(pasted.run("export", "-", "--user", pasted.user).splitlines()) == sorted(lines)


def import_(pasted: Pasted) -> None:
    guid, other = pasted.new(), uuid4().hex.upper()
    path = pasted.cli.folder / "in file"
    path.write_text("".join(f'{{"guid": "{each}", "user": "{pasted.user}"}}\n' for each in (guid, other)))
    checked = pasted.run("import", str(path), "--dry-run")
    assert [json.loads(line)["status"] for line in checked.splitlines()] == [200, 201]
    assert pasted.total() == 1
    skipped = pasted.run("import", str(path), "--on-conflict", "skip")
    assert [json.loads(line)["status"] for line in skipped.splitlines()] == [412, 201]
    again = pasted.run("import", "-", stdin=path.read_text())
    assert [json.loads(line)["status"] for line in again.splitlines()] == [200, 200]


def check(pasted: Pasted) -> None:
    printed = pasted.run("check").splitlines()
    assert [json.loads(line)["user"] for line in "".join(printed).replace("}{", "}\n{").splitlines()] == [
        "guidsvc check",
        "guidsvc check",
    ]
    assert pasted.client.list(user="guidsvc check", state="all").total() == 0


SCENARIOS: dict[str, Scenario] = {
    "whoami": whoami,
    "status": status,
    "put": put,
    "get": get,
    "patch": patch,
    "rm": rm,
    "renew": renew,
    "revoke": revoke,
    "edit": edit,
    "ls": ls,
    "watch": watch,
    "export": export,
    "import": import_,
    "check": check,
}


@pytest.mark.parametrize("name", REMOTE_COMMANDS)
def test_line_of_a_command_does_the_same(name: str, pasted: Pasted) -> None:
    SCENARIOS[name](pasted)


def test_line_without_a_key_has_no_header_for_one(cli: CommandLine, running: Service) -> None:
    assert cli.ok("ls", "--curl").out == (
        f"curl --silent --show-error --fail-with-body '{running.url}/guid?state=live&limit=500'\n"
    )


def test_key_of_a_file_is_noted(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("gs_secret")
    path.chmod(0o600)
    done = cli.ok("ls", "--curl", "--key-file", str(path))

    assert "gs_secret" not in done.out + done.err
    assert done.err == f"guidsvc: the line needs the key: set GUIDSVC_KEY to that of --key-file {path}\n"


def test_address_with_brackets_is_no_pattern_of_curl(cli: CommandLine) -> None:
    assert "--globoff 'http://[::1]:8888/guid?" in cli.ok("ls", "--curl", "--url", "http://[::1]:8888").out
