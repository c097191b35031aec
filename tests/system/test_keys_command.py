"""`python pdapt.py keys` as a process: its output, with and without a running service."""

import http.client
import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pymongo
import pytest

from guidsvc.cli.keys.command import COLUMNS
from guidsvc.cli.keys.command import keys as keys_command
from guidsvc.domain import api_key as keys
from guidsvc.domain.durations import Moment
from guidsvc.store.sqlite.schema import open_writer
from tests.support.backing_servers import START_SECONDS, Service, pdapt, service, wait_until
from tests.support.factories import GUID
from tests.support.forked_program import ForkedProgram
from tests.support.supervised_service import workers

TEXT = r"gs_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\n"
DAY = 24 * 3600
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `pdapt.py keys` in the temporary folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return pdapt(tmp_path, "keys", *arguments, **environment)

    return run


@pytest.fixture
def empty_store(tmp_path: Path) -> None:
    """An empty store in the temporary folder."""
    open_writer(tmp_path / "guidsvc.db").close()


def created_key(result: subprocess.CompletedProcess[str]) -> str:
    """Return the key that a command printed. It is the whole output; the store is named on standard error."""
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(TEXT, result.stdout)
    assert result.stdout.strip() not in result.stderr
    assert re.search("^store: ", result.stderr, re.MULTILINE)
    return result.stdout.strip()


def id_of(text: str) -> str:
    """Return the id of a key."""
    key = keys.parse(text)
    assert key is not None
    return key.id


def list_keys(command: Command, *arguments: str) -> dict[str, dict[str, object]]:
    """Return the listed keys by id."""
    result = command("list", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch("store: .*\n", result.stderr)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["id"] for each in rows] == sorted(each["id"] for each in rows)
    return {each["id"]: each for each in rows}


def status(running: Service, text: str, method: str = "GET", path: str = "/guid") -> int:
    """Return the status of a request with this key, over a new connection, so that any worker may answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {text}"})
        return connection.getresponse().status


def test_keys_can_be_created_before_the_store(command: Command, tmp_path: Path) -> None:
    text = created_key(command("create", "--new-store", "--owner", "Cylance, Inc."))

    assert list_keys(command)[id_of(text)] == {
        "id": id_of(text),
        "owner": "Cylance, Inc.",
        "scopes": ["read", "write", "delete"],
        "created": list_keys(command)[id_of(text)]["created"],
        "state": "live",
    }
    with service(tmp_path, "--access", "keys") as running:
        assert status(running, text) == 200


@pytest.mark.usefixtures("empty_store")
def test_form_of_keys_is_chosen_like_that_of_records(command: Command) -> None:
    key_id = id_of(created_key(command("create", "--owner", "a")))
    table, lines = command("list"), command("list", "-o", "lines")

    assert table.stdout.lower().startswith("id ")
    assert command("list", "-o", "table").stdout == command("list", "--json", "-o", "table").stdout == table.stdout
    assert lines.stdout == command("list", "--json").stdout
    assert [json.loads(lines.stdout)] == json.loads(command("list", "-o", "json").stdout)
    assert json.loads(command("show", key_id, "-o", "json").stdout) == json.loads(lines.stdout)
    assert command("show", key_id, "-o", "lines").stdout == command("show", key_id, "--json").stdout
    assert command("show", key_id).stdout.startswith("id ")


@pytest.mark.usefixtures("empty_store")
def test_key_expires_as_requested(command: Command) -> None:
    by_days = created_key(command("create", "--owner", "a", "--scopes", "admin", "--expires", "90d"))
    by_time = created_key(command("create", "--owner", "a", "--scopes", " read , admin", "--expires", "4102444800"))
    listed = list_keys(command)

    created = int(str(listed[id_of(by_days)]["created"])) // 1000
    assert abs(int(str(listed[id_of(by_days)]["expire"])) - created - 90 * DAY) <= 1
    assert listed[id_of(by_time)]["expire"] == "4102444800"
    assert listed[id_of(by_time)]["scopes"] == ["read", "admin"]


@pytest.mark.usefixtures("empty_store")
def test_table_has_a_row_for_each_key(command: Command) -> None:
    assert command("list").stdout.split() == list(COLUMNS)
    text = created_key(command("create", "--owner", "Bob", "--expires", "4102444800"))
    _, live_line = lines = command("list").stdout.splitlines()
    head, row = (re.split("  +", line) for line in lines)

    assert head == list(COLUMNS)
    assert row[:3] == [id_of(text), "Bob", "read,write,delete"]
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z", row[3])
    assert row[4:] == ["never", "2100-01-01T00:00:00Z", "live"]
    assert command("revoke", id_of(text)).returncode == 0
    assert command("list").stdout.splitlines()[1] == live_line.removesuffix("live") + "revoked"
    assert list_keys(command).keys() == {id_of(text)}


@pytest.mark.usefixtures("empty_store")
def test_limits_of_a_key_are_listed(command: Command) -> None:
    text = created_key(command("create", "--owner", "a", "--max-ttl", "1h", "--max-life", "86400"))

    assert {name: list_keys(command)[id_of(text)].get(name) for name in ("max_ttl", "max_life")} == {
        "max_ttl": "3600",
        "max_life": "86400",
    }


@pytest.mark.usefixtures("empty_store")
def test_note_of_a_key_is_listed_and_can_change(command: Command) -> None:
    text = created_key(command("create", "--owner", "a", "--note", "the build server"))
    assert command("list").stdout.splitlines()[1].endswith("  live   the build server")
    for arguments, note in ((("laptop of Ann",), "laptop of Ann"), ((), None)):
        result = command("note", id_of(text), *arguments)
        assert (result.returncode, result.stdout) == (0, "")
        assert list_keys(command)[id_of(text)].get("note") == note


@pytest.mark.usefixtures("empty_store")
def test_list_is_filtered_by_owner_state_and_text(command: Command) -> None:
    alice, billing, bob = (
        id_of(created_key(command("create", "--owner", owner, *arguments)))
        for owner, arguments in (("alice", ()), ("alice", ("--note", "Billing, nightly")), ("bob", ("--note", "x")))
    )
    assert command("revoke", alice).returncode == 0

    for arguments, expected in (
        (("--owner", "alice"), {alice, billing}),
        (("--owner", "Alice"), set()),
        (("--state", "live"), {billing, bob}),
        (("--state", "revoked"), {alice}),
        (("--state", "expired"), set()),
        (("--q", "bILLing"), {billing}),
        (("--q", bob[:8]), {bob}),
        (("--q", "x", "--owner", "alice"), set()),
        (("--owner", "alice", "--state", "live", "--q", "billing"), {billing}),
    ):
        assert list_keys(command, *arguments).keys() == expected, arguments
    assert command("list", "--owner", "bob").stdout.splitlines()[1].startswith(f"{bob}  bob ")
    assert command("list", "--q", "nothing").stdout.split() == list(COLUMNS)


@pytest.mark.usefixtures("empty_store")
def test_revocation_is_idempotent_and_revoked_key_cannot_rotate(command: Command) -> None:
    text = created_key(command("create", "--owner", "a"))
    for _ in range(2):
        result = command("revoke", id_of(text))
        assert (result.returncode, result.stdout) == (0, "")
    assert list_keys(command)[id_of(text)]["state"] == "revoked"
    rotation = command("rotate", id_of(text))
    assert (rotation.returncode, rotation.stdout) == (4, "")
    assert re.fullmatch(r"store: .*\npdapt\.py: Key \w+ was revoked and .*\n", rotation.stderr)


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("revoke", "0" * 12),
            3,
            "There is no key with the id 000000000000. `python pdapt.py keys list` shows the ids of all keys.",
        ),
        (("rotate", "0" * 12), 3, "There is no key"),
        (("note", "0" * 12, "text"), 3, "There is no key"),
        (("show", "0" * 12), 3, "There is no key"),
        (
            ("list", "--store-url", "sqlite:////nowhere/at/all"),
            1,
            "--store-url: there is no store at /nowhere/at/all: ",
        ),
        (
            ("create", "--new-store", "--owner", "a", "--store-url", "sqlite:////nowhere/at/all"),
            1,
            "--store-url: /nowhere/at/all cannot be opened",
        ),
    ],
)
def test_impossible_command_is_rejected_in_one_line(
    command: Command, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = command(*arguments)

    assert (result.returncode, result.stdout) == (code, "")
    assert re.fullmatch(rf"(store: /.*/guidsvc\.db\n)?pdapt\.py: {message}.*\n", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: name a command: create, list, note, revoke, rotate, show"),
        (("destroy",), "invalid choice"),
        (("create",), "required: --owner"),
        (("create", "--owner", " "), "--owner: must not be blank"),
        (("create", "--owner", "a" * 257), "--owner: must have 1 to 256 characters"),
        (("create", "--owner", b"\xff".decode("utf-8", "surrogateescape")), "--owner: must be UTF-8"),
        (
            ("create", "--owner", "a", "--scopes", "read,all"),
            "--scopes: invalid scopes: all; use read, write, delete, monitor, admin",
        ),
        (("create", "--owner", "a", "--scopes", ""), "--scopes: invalid scopes: none; use"),
        (("create", "--owner", "a", "--expires", "tomorrow"), "--expires: must be a duration from now (90d"),
        (("create", "--owner", "a", "--expires", "-1"), "--expires: "),
        (("create", "--owner", "a", "--expires", "253402300800"), "--expires: is too far in the future"),
        (("create", "--owner", "a", "--expires", "9999999d"), "--expires: is too far in the future"),
        (
            ("create", "--owner", "a", "--expires", "90"),
            "--expires: is in the past: 90 without a unit is Unix time; write 90d for days from now",
        ),
        (("create", "--owner", "a", "--expires", "2020-01-01"), "--expires: is in the past; the key would never be"),
        (("revoke", "x"), "argument ID: must be 12 letters and digits: the part between gs_ and the next _"),
        (("rotate", "0" * 13), "argument ID: must be 12 letters and digits"),
        (("note", "0" * 11 + "-", "text"), "argument ID: must be 12 letters and digits"),
        (("create", "--owner", "a", "--max-ttl", "0"), "--max-ttl: must be at least 1 second"),
        (("create", "--owner", "a", "--note", "n" * 201), "--note: must have 1 to 200 characters"),
        (("list", "--owner", " "), "--owner: must not be blank"),
        (("list", "--state", "dead"), "--state: invalid choice: 'dead' (choose from 'live', 'revoked', 'expired')"),
        (("list", "--q", ""), "--q: must have 1 to 200 characters, not 0"),
        (("list", "--q", "q" * 201), "--q: must have 1 to 200 characters, not 201"),
        (("list", "--q", b"\xff".decode("utf-8", "surrogateescape")), "--q: must be UTF-8"),
        (("note", "0" * 12, "a\nb"), "TEXT: must not contain control characters"),
        (
            ("rotate", "0" * 12, "--overlap", "soon"),
            "--overlap: must be a number of seconds or a duration with a unit (90s",
        ),
        (("rotate", "0" * 12, "--overlap", "1.5s"), "--overlap: must be a whole number of seconds"),
        (("rotate", "0" * 12, "--overlap", "2592001"), "--overlap: must be at most 2592000 (30d)"),
        (("rotate", "0" * 12, "--overlap", "31d"), "--overlap: must be at most 2592000 (30d)"),
    ],
)
def test_invalid_arguments_are_a_usage_error(command: Command, arguments: tuple[str, ...], message: str) -> None:
    result = command(*arguments)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: pdapt.py keys")
    assert message in result.stderr.splitlines()[-1]


def parse_arguments(name: str, *arguments: str) -> dict[str, Any]:
    """Return the values of the parameters of a command."""
    command = keys_command.commands[name]
    return command.make_context(name, list(arguments)).params


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-01", Moment(1_798_761_600, is_from_now=False)),
        ("2027-01-01T00:00:00Z", Moment(1_798_761_600, is_from_now=False)),
        ("+24h", Moment(DAY, is_from_now=True)),
        ("90d", Moment(90 * DAY, is_from_now=True)),
    ],
)
def test_expiry_is_a_duration_a_date_or_a_time(text: str, moment: Moment) -> None:
    assert parse_arguments("create", "--owner", "a", "--expires", text)["expires"] == moment


@pytest.mark.parametrize(("text", "seconds"), [("1h", 3600), ("3600", 3600), ("30d", 30 * DAY), ("0", 0)])
def test_overlap_is_a_duration(text: str, seconds: int) -> None:
    assert parse_arguments("rotate", "0" * 12, "--overlap", text)["overlap"] == seconds


@pytest.mark.parametrize("flag", ["--new-store", "--create"])
def test_former_flag_still_creates_a_store(command: Command, tmp_path: Path, flag: str) -> None:
    assert command("create", "--owner", "a").returncode == 1
    assert not list(tmp_path.iterdir())
    created_key(command("create", "--owner", "a", flag))


def test_help_lists_every_command_and_flag(command: Command) -> None:
    overview = command("--help").stdout
    for name, flags in {
        "create": (
            "--owner",
            "--scopes",
            "--expires",
            "--note",
            "--max-ttl",
            "--max-life",
            "--new-store",
            "--store-url",
        ),
        "note": ("ID", "TEXT", "--store-url", "--url", "--profile", "--key-file", "--curl"),
        "show": ("ID", "--output", "--json", "--store-url"),
        "list": ("--owner", "--state", "--q", "--output", "--json", "--store-url"),
        "revoke": ("ID", "--store-url"),
        "rotate": ("ID", "--overlap", "--store-url"),
    }.items():
        assert f" {name} " in overview
        help_ = command(name, "--help")
        assert help_.returncode == 0
        assert all(flag in help_.stdout for flag in flags)


def test_store_comes_from_the_settings(command: Command, tmp_path: Path) -> None:
    """A flag overrides the environment, which overrides the file; a misspelt setting is reported."""
    first, second, third = (f"sqlite:///{tmp_path / name}.db" for name in "abc")
    (tmp_path / ".env").write_text(f"GUIDSVC_STORE_URL={first}\n")
    created_key(command("create", "--new-store", "--owner", "first"))
    created_key(command("create", "--new-store", "--owner", "second", GUIDSVC_STORE_URL=second))
    created_key(command("create", "--new-store", "--owner", "third", "--store-url", third, GUIDSVC_STORE_URL=second))

    for url, owner in ((first, "first"), (second, "second"), (third, "third")):
        assert [each["owner"] for each in list_keys(command, "--store-url", url).values()] == [owner]
    assert command("list", GUIDSVC_STORE_ULR=first).stderr.startswith("pdapt.py: unknown setting GUIDSVC_STORE_ULR ")


COMMANDS = [
    ("create", "--owner", "a"),
    ("list",),
    *((name, "0" * 12) for name in ("show", "note", "revoke", "rotate")),
]
"""Each command with its required arguments."""


def test_every_command_is_tested() -> None:
    assert sorted(keys_command.commands) == sorted(each[0] for each in COMMANDS)


@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.parametrize("file", ["absent", "empty", "without tables"])
def test_commands_create_no_store_by_mistake(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], file: str
) -> None:
    """A misspelt path stays absent, and a file that is no store stays unchanged."""
    path = tmp_path / "tpyo.db"
    if file != "absent":
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("CREATE TABLE x (y); DROP TABLE x" if file == "without tables" else "")
    if file == "empty":
        path.touch()
    before = path.read_bytes() if path.exists() else None
    result = command(*arguments, "--store-url", "sqlite:///tpyo.db")

    assert (result.returncode, result.stdout) == (1, "")
    hint = ", or create it with --new-store" if arguments[0] == "create" else " with --store-url"
    assert result.stderr == f"pdapt.py: --store-url: there is no store at {path}: name the store of the service{hint}\n"
    assert (path.read_bytes() if path.exists() else None) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ([] if before is None else ["tpyo.db"])


@pytest.mark.parametrize("arguments", COMMANDS)
def test_commands_create_no_database_by_mistake(command: Command, mongo_url: str, arguments: tuple[str, ...]) -> None:
    result = command(*arguments, "--store-url", mongo_url)
    name = mongo_url.rpartition("/")[2]

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(
        f"pdapt.py: --store-url: there is no store at {mongo_url}, in the database {name}: "
    )
    assert len(result.stderr.splitlines()) == 1
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        assert name not in client.list_database_names()


@pytest.mark.parametrize("store", ["sqlite", "mongo"])
def test_store_is_created_on_request_and_its_place_is_reported(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    url = request.getfixturevalue("mongo_url") if store == "mongo" else "sqlite:///other.db"
    at = ("--store-url", url)
    store_line = f"store: {tmp_path / 'other.db' if store == 'sqlite' else url}"
    for create in (("--new-store",), ("--new-store",), ()):
        result = command("create", *create, "--owner", "a", *at)
        text = created_key(result)
        assert result.stderr.splitlines()[0] == store_line
    for arguments in (("list",), ("rotate", id_of(text)), ("revoke", id_of(text))):
        result = command(*arguments, *at)
        assert (result.returncode, result.stderr.splitlines()[0]) == (0, store_line)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "mongo"])
def test_concurrent_commands_lose_nothing(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    """Even if the first of them creates the store."""
    url = request.getfixturevalue(f"{store}_url")
    arguments = ["keys", "create", "--new-store", "--store-url", url, "--owner"]
    outputs, errors = ([tmp_path / f"{owner}.{stream}" for owner in "abcd"] for stream in ("out", "err"))
    started = [
        ForkedProgram([*arguments, owner], cwd=tmp_path, env=os.environ, stdout=output, stderr=error)
        for owner, output, error in zip("abcd", outputs, errors, strict=True)
    ]

    assert [each.wait(START_SECONDS) for each in started] == [0] * 4, [path.read_text() for path in errors]
    listed = list_keys(command, "--store-url", url)
    assert [listed[id_of(path.read_text().strip())]["owner"] for path in outputs] == list("abcd")


@pytest.mark.parametrize("store", ["sqlite", "mongo"])
def test_command_works_beside_a_service_with_exclusive_store(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    """A new key is accepted at once, a rotated one keeps working, a revoked one is rejected soon."""
    url = request.getfixturevalue(f"{store}_url")
    at = ("--store-url", url)
    with service(tmp_path, "--access", "keys", *at) as running:
        text = created_key(command("create", "--owner", "a", *at))
        assert status(running, text) == 200
        assert status(running, text, "PUT", f"/guid/{GUID}") == 400, "the key may write; the body is missing"
        wait_until(lambda: "used" in list_keys(command, *at)[id_of(text)], "the time of use", running.log)
        rotated = created_key(command("rotate", id_of(text), "--overlap", "3600", *at))
        assert [status(running, each) for each in (text, rotated)] == [200, 200]
        rotated_at_once = created_key(command("rotate", id_of(text), "--overlap", "0", *at))
        wait_until(lambda: status(running, text) == 401, "the first secret has ended", running.log)
        wait_until(lambda: status(running, rotated) == 401, "the second secret has ended", running.log)
        assert status(running, rotated_at_once) == 200
        assert command("revoke", id_of(text), *at).returncode == 0
        wait_until(lambda: status(running, rotated_at_once) == 401, "it is revoked", running.log)


@pytest.mark.usefixtures("empty_store")
def test_revoked_key_is_rejected_by_every_worker_in_five_seconds(
    command: Command, tmp_path: Path, redis_url: str
) -> None:
    text, other = created_key(command("create", "--owner", "a")), created_key(command("create", "--owner", "b"))
    # The limit on failed logins is off: the polling below must not lock the address out.
    with workers(tmp_path, redis_url, "--access", "keys", "--login-limit", "") as running:
        assert all(status(running, text) == 200 for _ in range(20)), "both workers have cached the key"
        assert command("revoke", id_of(text)).returncode == 0
        wait_until(
            lambda: {status(running, text) for _ in range(10)} == {401}, "all workers reject the key", running.log, 5.0
        )
        assert all(status(running, other) == 200 for _ in range(10))


def test_secrets_are_neither_stored_nor_logged(command: Command, tmp_path: Path) -> None:
    """Not in the files of the store, nor in the log of a service at level debug."""
    with service(tmp_path, "--access", "keys", "--log-level", "debug") as running:
        text = created_key(command("create", "--owner", "a", "--scopes", "admin", GUIDSVC_LOG_LEVEL="debug"))
        assert status(running, text) == 200
        rotated = created_key(command("rotate", id_of(text), GUIDSVC_LOG_LEVEL="debug"))
        assert status(running, rotated) == status(running, text) == 200
        files = [path for path in tmp_path.iterdir() if path.is_file()]
        assert {"guidsvc.db", "guidsvc.db-wal", "server.log"} <= {path.name for path in files}
        contents = b"".join(path.read_bytes() for path in files)
    for key_text in (text, rotated):
        key = keys.parse(key_text)
        assert key is not None
        assert keys.digest_of(key.secret).encode() in contents, "the store has the digest of the secret"
        assert key.secret.encode() not in contents
