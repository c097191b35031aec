"""`keys` over HTTP: the same as over the store, one suite for both; and what only `--url` does."""

import asyncio
import errno
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from guidsvc.cli import output
from guidsvc.cli.keys.command import COLUMNS
from guidsvc.cli.keys.command import keys as keys_command
from guidsvc_client import Client, Unauthorized
from tests.support.backing_servers import Service
from tests.support.command_line import CommandLine, CommandResult, profile
from tests.support.guarded_service import GuardedService
from tests.support.scripted_server import RESET, problem, response, scripted_server

ID = "0" * 12
SECONDS = 60
PLACE = re.compile(r"^(store: /.*|service: http://.*)\n", re.MULTILINE)


class Keys:
    """`keys` with the options of a place."""

    def __init__(self, line: CommandLine, *flags: str) -> None:
        self.line, self.flags = line, flags

    def __call__(self, name: str, *words: str) -> CommandResult:
        """Run a command of `keys`. Its messages are without the line that says where the keys are."""
        done = self.line("keys", name, *words, *self.flags)
        assert len(PLACE.findall(done.err)) == 1, done
        return done._replace(err=PLACE.sub("", done.err))

    def ok(self, name: str, *words: str) -> CommandResult:
        """Run a command that must have success."""
        done = self(name, *words)
        assert done.code == 0, done
        return done

    def new(self, *words: str) -> str:
        """Create a key, and return its id."""
        return self.ok("create", *words).out.split("_")[1]


@pytest.fixture
def line(guarded: GuardedService, tmp_path: Path) -> CommandLine:
    """Commands with the key of an admin."""
    return CommandLine(tmp_path, GUIDSVC_KEY=guarded.key)


@pytest.fixture
def over_http(guarded: GuardedService, line: CommandLine) -> Keys:
    return Keys(line, "--url", guarded.service.url)


@pytest.fixture
def over_store(guarded: GuardedService, line: CommandLine) -> Keys:
    return Keys(line, "--store-url", f"sqlite:///{guarded.service.log.parent / 'guidsvc.db'}")


@pytest.fixture(params=["store", "service"])
def keys(request: pytest.FixtureRequest, over_http: Keys, over_store: Keys) -> Keys:
    """The keys in the store, and the same over HTTP."""
    return over_store if request.param == "store" else over_http


@pytest.fixture
def owner() -> str:
    return f"owner {uuid4().hex}"


def test_key_is_created_and_shown_only_once(keys: Keys, guarded: GuardedService, owner: str) -> None:
    done = keys.ok("create", "--owner", owner, "--scopes", "read,admin", "--expires", "2100-01-01", "--max-ttl", "1h")
    key = done.out.strip()

    key_id = key.split("_")[1]
    rights = "read, admin, expires 2100-01-01T00:00:00Z"
    assert done.err == f"key {key_id} of {owner}: {rights}. The new key is shown only now:\n"
    with Client(guarded.service.url, key=key) as client:
        own = client.keys.get(key_id)
    assert (own.owner, own.scopes, own.expire, own.max_ttl) == (owner, ["read", "admin"], 4_102_444_800, 3600)
    assert key not in keys.ok("show", key_id, "--json").out


def test_lists_of_both_places_are_equal(over_http: Keys, over_store: Keys, owner: str) -> None:
    first = over_http.new("--owner", owner, "--note", "Billing, nightly", "--max-ttl", "1h", "--max-life", "1d")
    second = over_store.new("--owner", owner, "--expires", "2100-01-01")
    over_http.ok("revoke", first)

    for words in ([], ["--json"], ["--state", "live"], ["--q", "bILL"], ["--q", second[:8], "--json"]):
        shown = over_http.ok("list", "--owner", owner, *words)
        assert shown == over_store.ok("list", "--owner", owner, *words), words
        assert (first in shown.out) == (words not in (["--state", "live"], ["--q", second[:8], "--json"])), words
    for words in ([], ["--json"]):
        shown = over_http.ok("show", first, *words)
        assert shown == over_store.ok("show", first, *words)
        assert re.search("max_ttl.*3600", shown.out)
    assert over_http.ok("list", "--owner", owner).out.split()[: len(COLUMNS)] == list(COLUMNS)


def test_all_pages_of_a_list_are_printed(over_http: Keys, owner: str) -> None:
    """A page has at most 500 keys, so the client follows its `next`."""
    made = {over_http.new("--owner", owner) for _ in range(3)}
    shown = [json.loads(each)["id"] for each in over_http.ok("list", "--json").out.splitlines()]

    assert made <= set(shown)
    assert shown == sorted(shown)


def test_note_is_set_and_removed(keys: Keys, owner: str) -> None:
    key_id = keys.new("--owner", owner)

    assert keys.ok("note", key_id, "laptop of Ann").err == f"key {key_id} of {owner}: note set\n"
    assert json.loads(keys.ok("show", key_id, "--json").out)["note"] == "laptop of Ann"
    assert keys.ok("note", key_id).err == f"key {key_id} of {owner}: note removed\n"
    assert "note" not in json.loads(keys.ok("show", key_id, "--json").out)


def test_rotation_ends_the_old_secret_on_request(keys: Keys, guarded: GuardedService, owner: str) -> None:
    old = keys.ok("create", "--owner", owner).out.strip()
    key_id = old.split("_")[1]
    done = keys.ok("rotate", key_id, "--overlap", "0")

    validity = "all earlier secrets have ended: every process rejects them within 5 s"
    assert done.err == f"key {key_id} rotated: {validity}. The new key is shown only now:\n"
    with Client(guarded.service.url, key=done.out.strip()) as client:
        assert client.whoami().id == key_id
    with Client(guarded.service.url, key=old) as client, pytest.raises(Unauthorized):
        client.whoami()


def test_revoked_key_remains_listed_and_cannot_rotate(keys: Keys, owner: str) -> None:
    key_id = keys.new("--owner", owner)
    for _ in range(2):
        assert (
            keys.ok("revoke", key_id).err == f"key {key_id} of {owner} revoked: every process rejects it within 5 s\n"
        )
    refused = keys("rotate", key_id)

    assert json.loads(keys.ok("list", "--owner", owner, "--json").out)["state"] == "revoked"
    assert (refused.code, refused.out) == (4, "")
    assert refused.err.startswith(f"guidsvc: Key {key_id} was revoked and ")


@pytest.mark.parametrize("name", ["show", "note", "revoke", "rotate"])
def test_unknown_key_is_not_found_and_the_list_is_named(keys: Keys, name: str) -> None:
    done = keys(name, ID)

    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(f"guidsvc: There is no key with the id {ID}. `guidsvc keys list")
    assert "shows the ids of all keys." in done.err


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--store-url", "sqlite:///a.db", "--url", "http://a"], "--store-url and --url exclude each other: keys are"),
        (["--store-url", "sqlite:///a.db", "--profile", "a"], "--store-url and --profile exclude each other"),
        (["--url", "http://a", "--profile", "a"], "--url and --profile exclude each other"),
        (["--curl"], "--curl needs --url or --profile: without them, keys are managed in the store"),
        (["--key-file", "a"], "--key-file needs --url or --profile"),
        (["--url", "localhost:8888"], "has no scheme; write http://localhost:8888"),
    ],
)
@pytest.mark.parametrize("name", [*keys_command.commands])
def test_contradicting_places_are_a_usage_error(line: CommandLine, name: str, words: list[str], fault: str) -> None:
    needed = {"create": ["--owner", "a"], "list": []}.get(name, [ID])
    done = line("keys", name, *needed, *words)

    assert (done.code, done.out) == (2, "")
    assert fault in done.err.splitlines()[-1]


def test_service_needs_no_new_store(line: CommandLine) -> None:
    done = line("keys", "create", "--owner", "a", "--new-store", "--url", "http://a")

    assert (done.code, done.out) == (2, "")
    assert "--new-store and --url exclude each other" in done.err


def test_variables_of_clients_do_not_leave_the_store(over_store: Keys, owner: str) -> None:
    """Only an option does: a command that has managed a store so far must not change another service."""
    key_id = over_store.new("--owner", owner)
    over_store.line.variables |= {"GUIDSVC_URL": "http://127.0.0.1:1", "GUIDSVC_PROFILE": "nowhere"}

    assert key_id in over_store.ok("list", "--owner", owner).out


def test_profile_names_the_service_and_its_key(
    line: CommandLine, guarded: GuardedService, tmp_path: Path, owner: str
) -> None:
    path = tmp_path / "admin.key"
    path.touch(0o600)
    path.write_text(guarded.key)
    profile(line, f'[profile.prod]\nurl = "{guarded.service.url}"\nkey_file = "{path}"\n')
    done = line.ok("keys", "create", "--owner", owner, "--profile", "prod", GUIDSVC_KEY="gs_wrong")

    assert done.err.startswith(f"service: {guarded.service.url}\n")
    assert line.ok("keys", "list", "--owner", owner, "--url", guarded.service.url, "--key-file", str(path)).out


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "Authentication is required. To create a key, run with the --store-url of this service: "),
        ("", "Name a key: set GUIDSVC_KEY, or use --key-file"),
        ("gs_wrong", "Check the key from GUIDSVC_KEY"),
    ],
)
def test_missing_and_wrong_keys_are_not_allowed(over_http: Keys, key: str, fault: str) -> None:
    over_http.line.variables["GUIDSVC_KEY"] = key
    done = over_http("list")

    assert (done.code, done.out) == (5, "")
    assert fault in done.err


def test_key_without_the_scope_admin_is_not_allowed(over_http: Keys, owner: str) -> None:
    over_http.line.variables["GUIDSVC_KEY"] = over_http.ok("create", "--owner", owner).out.strip()
    done = over_http("list")

    assert (done.code, done.out) == (5, "")
    assert "`guidsvc whoami` shows what the key may do." in done.err


def test_service_without_access_control_says_so(running: Service, tmp_path: Path) -> None:
    done = CommandLine(tmp_path)("keys", "create", "--owner", "a", "--url", running.url)

    assert (done.code, done.out) == (5, "")
    assert "start the service with --access keys" in done.err


@pytest.mark.parametrize("name", ["create", "note", "revoke", "rotate"])
async def test_lost_response_to_a_change_is_unknown(tmp_path: Path, name: str) -> None:
    words = ["--owner", "a"] if name == "create" else [ID]
    key = response(200, json.dumps({"id": ID, "owner": "a", "scopes": ["read"], "state": "live"}).encode())
    async with scripted_server(lambda request: key if request.method == "GET" else RESET) as server:
        done = await _in_thread(CommandLine(tmp_path), "keys", name, *words, "--url", server.url)
        assert (done.code, done.out) == (7, "")
        assert f"look at `guidsvc keys list --url {server.url}` before you try again" in done.err
        writes = [each for each in server.requests if each.method != "GET"]
        assert len(writes) == 1 or name == "revoke", "only a revocation has no further effect when it is repeated"


async def test_service_that_is_down_and_one_that_is_busy_are_codes(tmp_path: Path) -> None:
    async with scripted_server(lambda _: problem("rate-limited", 429, Retry_After="600")) as server:
        busy = await _in_thread(CommandLine(tmp_path), "keys", "list", "--url", server.url)
    down = await _in_thread(CommandLine(tmp_path), "keys", "list", "--url", "http://127.0.0.1:1")

    assert [(each.code, each.out) for each in (busy, down)] == [(6, ""), (6, "")]
    assert "Try again in 600 s" in busy.err
    assert "no connection to http://127.0.0.1:1" in down.err


async def _in_thread(line: CommandLine, *words: str) -> CommandResult:
    return await asyncio.to_thread(line, *words)


@pytest.fixture
def paste(over_http: Keys, guarded: GuardedService) -> Any:
    """A function that lets a shell run the line that `--curl` prints, and returns what that prints."""

    def run(name: str, *words: str) -> str:
        done = over_http.line.ok("keys", name, *words, *over_http.flags, "--curl")
        assert (done.err, "$GUIDSVC_KEY" in done.out, guarded.key in done.out) == ("", True, False)
        shell = subprocess.run(
            ["/bin/sh", "-c", done.out],
            env=os.environ | {"GUIDSVC_KEY": guarded.key},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        return shell.stdout

    return run


def test_curl_line_of_each_command_does_the_same(paste: Any, over_http: Keys, owner: str) -> None:
    made = json.loads(paste("create", "--owner", owner, "--scopes", "read", "--max-ttl", "60", "--note", "it's"))
    key_id = made["id"]
    shown = json.loads(over_http.ok("show", key_id, "--json").out)

    assert made["key"].startswith(f"gs_{key_id}_")
    assert json.loads(paste("show", key_id)) == shown
    assert json.loads(paste("list", "--owner", owner, "--state", "live"))["items"] == [shown]
    assert json.loads(paste("note", key_id, "new"))["note"] == "new"
    assert json.loads(paste("rotate", key_id, "--overlap", "0"))["key"] != made["key"]
    assert paste("revoke", key_id) == ""
    assert json.loads(over_http.ok("show", key_id, "--json").out)["state"] == "revoked"


def test_lost_key_is_reported_with_the_way_to_revoke_it(
    over_http: Keys, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may become full between the check and the output."""

    def is_full(_: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(output, "_write", is_full)
        done = over_http("create", "--owner", owner)
    key_id = json.loads(over_http.ok("list", "--owner", owner, "--json").out)["id"]

    assert (done.code, done.out) == (1, "")
    again = shlex.join(["keys", "revoke", key_id, *over_http.flags])
    assert f"the key {key_id} was created, but is lost; revoke it with `guidsvc {again}`" in done.err
