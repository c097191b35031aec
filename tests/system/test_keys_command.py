"""`python pdapt.py keys`, as a process: what it prints where, beside a service and without one."""

import http.client
import json
import re
import sqlite3
import subprocess
import sys
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
from tests.support.backing_servers import ROOT, Service, pdapt, service, wait_until
from tests.support.factories import GUID
from tests.support.supervised_service import workers

TEXT = r"gs_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\n"
DAY = 24 * 3600
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`pdapt.py keys`, in a folder of this test."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return pdapt(tmp_path, "keys", *words, **environment)

    return run


@pytest.fixture
def empty_store(tmp_path: Path) -> None:
    """An empty store in that folder."""
    open_writer(tmp_path / "guidsvc.db").close()


def made(done: subprocess.CompletedProcess[str]) -> str:
    """Return the key that a command printed, which is all of its output; where the store is, is told beside it."""
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(TEXT, done.stdout)
    assert done.stdout.strip() not in done.stderr
    assert re.search("^store: ", done.stderr, re.MULTILINE)
    return done.stdout.strip()


def id_of(text: str) -> str:
    """Return the id of a key."""
    shown = keys.parse(text)
    assert shown is not None
    return shown.id


def listed(command: Command, *words: str) -> dict[str, dict[str, object]]:
    """Return what is listed, by id."""
    done = command("list", "--json", *words)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch("store: .*\n", done.stderr)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["id"] for each in told] == sorted(each["id"] for each in told)
    return {each["id"]: each for each in told}


def status(running: Service, text: str, method: str = "GET", path: str = "/guid") -> int:
    """Return how the service answers who shows a key; over a new connection, to whichever worker."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {text}"})
        return connection.getresponse().status


def test_keys_can_be_created_before_the_store(command: Command, tmp_path: Path) -> None:
    text = made(command("create", "--new-store", "--owner", "Cylance, Inc."))

    assert listed(command)[id_of(text)] == {
        "id": id_of(text),
        "owner": "Cylance, Inc.",
        "scopes": ["read", "write", "delete"],
        "created": listed(command)[id_of(text)]["created"],
        "state": "live",
    }
    with service(tmp_path, "--access", "keys") as running:
        assert status(running, text) == 200


@pytest.mark.usefixtures("empty_store")
def test_key_expires_as_requested(command: Command) -> None:
    by_days = made(command("create", "--owner", "a", "--scopes", "admin", "--expires", "90d"))
    by_time = made(command("create", "--owner", "a", "--scopes", " read , admin", "--expires", "4102444800"))
    told = listed(command)

    created = int(str(told[id_of(by_days)]["created"])) // 1000
    assert abs(int(str(told[id_of(by_days)]["expire"])) - created - 90 * DAY) <= 1
    assert told[id_of(by_time)]["expire"] == "4102444800"
    assert told[id_of(by_time)]["scopes"] == ["read", "admin"]


@pytest.mark.usefixtures("empty_store")
def test_table_has_a_row_for_each_key(command: Command) -> None:
    assert command("list").stdout.split() == list(COLUMNS)
    text = made(command("create", "--owner", "Bob", "--expires", "4102444800"))
    _, before = lines = command("list").stdout.splitlines()
    head, row = (re.split("  +", line) for line in lines)

    assert head == list(COLUMNS)
    assert row[:3] == [id_of(text), "Bob", "read,write,delete"]
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z", row[3])
    assert row[4:] == ["never", "2100-01-01T00:00:00Z", "live"]
    assert command("revoke", id_of(text)).returncode == 0
    assert command("list").stdout.splitlines()[1] == before.removesuffix("live") + "revoked"
    assert listed(command).keys() == {id_of(text)}


@pytest.mark.usefixtures("empty_store")
def test_limits_of_a_key_are_listed(command: Command) -> None:
    text = made(command("create", "--owner", "a", "--max-ttl", "1h", "--max-life", "86400"))

    assert {name: listed(command)[id_of(text)].get(name) for name in ("max_ttl", "max_life")} == {
        "max_ttl": "3600",
        "max_life": "86400",
    }


@pytest.mark.usefixtures("empty_store")
def test_note_of_a_key_is_listed_and_can_change(command: Command) -> None:
    text = made(command("create", "--owner", "a", "--note", "the build server"))
    assert command("list").stdout.splitlines()[1].endswith("  live   the build server")
    for words, note in ((("laptop of Ann",), "laptop of Ann"), ((), None)):
        done = command("note", id_of(text), *words)
        assert (done.returncode, done.stdout) == (0, "")
        assert listed(command)[id_of(text)].get("note") == note


@pytest.mark.usefixtures("empty_store")
def test_list_is_filtered_by_owner_state_and_text(command: Command) -> None:
    alice, billing, bob = (
        id_of(made(command("create", "--owner", owner, *words)))
        for owner, words in (("alice", ()), ("alice", ("--note", "Billing, nightly")), ("bob", ("--note", "x")))
    )
    assert command("revoke", alice).returncode == 0

    for words, found in (
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
        assert listed(command, *words).keys() == found, words
    assert command("list", "--owner", "bob").stdout.splitlines()[1].startswith(f"{bob}  bob ")
    assert command("list", "--q", "nothing").stdout.split() == list(COLUMNS)


@pytest.mark.usefixtures("empty_store")
def test_revocation_is_idempotent_and_revoked_key_cannot_rotate(command: Command) -> None:
    text = made(command("create", "--owner", "a"))
    for _ in range(2):
        done = command("revoke", id_of(text))
        assert (done.returncode, done.stdout) == (0, "")
    assert listed(command)[id_of(text)]["state"] == "revoked"
    refused = command("rotate", id_of(text))
    assert (refused.returncode, refused.stdout) == (4, "")
    assert re.fullmatch(r"store: .*\npdapt\.py: Key \w+ was revoked and .*\n", refused.stderr)


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize(
    ("words", "code", "why"),
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
    command: Command, words: tuple[str, ...], code: int, why: str
) -> None:
    done = command(*words)

    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(rf"(store: /.*/guidsvc\.db\n)?pdapt\.py: {why}.*\n", done.stderr)


@pytest.mark.parametrize(
    ("words", "why"),
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
def test_invalid_arguments_are_a_usage_error(command: Command, words: tuple[str, ...], why: str) -> None:
    done = command(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: pdapt.py keys")
    assert why in done.stderr.splitlines()[-1]


def parsed(name: str, *words: str) -> dict[str, Any]:
    """Return the values of the parameters of a command."""
    command = keys_command.commands[name]
    return command.make_context(name, list(words)).params


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
    assert parsed("create", "--owner", "a", "--expires", text)["expires"] == moment


@pytest.mark.parametrize(("text", "seconds"), [("1h", 3600), ("3600", 3600), ("30d", 30 * DAY), ("0", 0)])
def test_overlap_is_a_duration(text: str, seconds: int) -> None:
    assert parsed("rotate", "0" * 12, "--overlap", text)["overlap"] == seconds


@pytest.mark.parametrize("word", ["--new-store", "--create"])
def test_former_flag_still_creates_a_store(command: Command, tmp_path: Path, word: str) -> None:
    assert command("create", "--owner", "a").returncode == 1
    assert not list(tmp_path.iterdir())
    made(command("create", "--owner", "a", word))


def test_help_lists_every_command_and_flag(command: Command) -> None:
    whole = command("--help").stdout
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
        "show": ("ID", "--json", "--store-url"),
        "list": ("--owner", "--state", "--q", "--json", "--store-url"),
        "revoke": ("ID", "--store-url"),
        "rotate": ("ID", "--overlap", "--store-url"),
    }.items():
        assert f" {name} " in whole
        told = command(name, "--help")
        assert told.returncode == 0
        assert all(flag in told.stdout for flag in flags)


def test_store_comes_from_the_settings(command: Command, tmp_path: Path) -> None:
    """A flag wins over the environment, which wins over the file; and a misspelt setting is told."""
    first, second, third = (f"sqlite:///{tmp_path / name}.db" for name in "abc")
    (tmp_path / ".env").write_text(f"GUIDSVC_STORE_URL={first}\n")
    made(command("create", "--new-store", "--owner", "first"))
    made(command("create", "--new-store", "--owner", "second", GUIDSVC_STORE_URL=second))
    made(command("create", "--new-store", "--owner", "third", "--store-url", third, GUIDSVC_STORE_URL=second))

    for url, owner in ((first, "first"), (second, "second"), (third, "third")):
        assert [each["owner"] for each in listed(command, "--store-url", url).values()] == [owner]
    assert command("list", GUIDSVC_STORE_ULR=first).stderr.startswith("pdapt.py: unknown setting GUIDSVC_STORE_ULR ")


EVERY = [
    ("create", "--owner", "a"),
    ("list",),
    *((name, "0" * 12) for name in ("show", "note", "revoke", "rotate")),
]
"""Each command, as it stands."""


def test_every_command_is_tested() -> None:
    assert sorted(keys_command.commands) == sorted(each[0] for each in EVERY)


@pytest.mark.parametrize("words", EVERY)
@pytest.mark.parametrize("file", ["absent", "empty", "without tables"])
def test_commands_create_no_store_by_mistake(
    command: Command, tmp_path: Path, words: tuple[str, ...], file: str
) -> None:
    """A file that is misspelt stays absent, and one that holds no store stays as it is."""
    path = tmp_path / "tpyo.db"
    if file != "absent":
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("CREATE TABLE x (y); DROP TABLE x" if file == "without tables" else "")
    if file == "empty":
        path.touch()
    before = path.read_bytes() if path.exists() else None
    done = command(*words, "--store-url", "sqlite:///tpyo.db")

    assert (done.returncode, done.stdout) == (1, "")
    hint = ", or create it with --new-store" if words[0] == "create" else " with --store-url"
    assert done.stderr == f"pdapt.py: --store-url: there is no store at {path}: name the store of the service{hint}\n"
    assert (path.read_bytes() if path.exists() else None) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ([] if before is None else ["tpyo.db"])


@pytest.mark.parametrize("words", EVERY)
def test_commands_create_no_database_by_mistake(command: Command, mongo_url: str, words: tuple[str, ...]) -> None:
    done = command(*words, "--store-url", mongo_url)
    name = mongo_url.rpartition("/")[2]

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"pdapt.py: --store-url: there is no store at {mongo_url}, in the database {name}: ")
    assert len(done.stderr.splitlines()) == 1
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        assert name not in client.list_database_names()


@pytest.mark.parametrize("store", ["sqlite", "mongo"])
def test_store_is_created_on_request_and_its_place_is_reported(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    url = request.getfixturevalue("mongo_url") if store == "mongo" else "sqlite:///other.db"
    at = ("--store-url", url)
    place = f"store: {tmp_path / 'other.db' if store == 'sqlite' else url}"
    for create in (("--new-store",), ("--new-store",), ()):
        done = command("create", *create, "--owner", "a", *at)
        text = made(done)
        assert done.stderr.splitlines()[0] == place
    for words in (("list",), ("rotate", id_of(text)), ("revoke", id_of(text))):
        done = command(*words, *at)
        assert (done.returncode, done.stderr.splitlines()[0]) == (0, place)


@pytest.mark.parametrize("store", ["sqlite", "mongo"])
def test_concurrent_commands_lose_nothing(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    """Not even where the first of them makes the store."""
    url = request.getfixturevalue(f"{store}_url")
    words = [sys.executable, str(ROOT / "pdapt.py"), "keys", "create", "--new-store", "--store-url", url, "--owner"]
    started = [
        subprocess.Popen([*words, owner], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for owner in "abcd"
    ]
    said = [each.communicate(timeout=30) for each in started]

    assert [each.returncode for each in started] == [0] * 4, said
    told = listed(command, "--store-url", url)
    assert [told[id_of(text.strip())]["owner"] for text, _ in said] == list("abcd")


@pytest.mark.parametrize("store", ["sqlite", "mongo"])
def test_command_works_beside_a_service_with_exclusive_store(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    """What is made opens at once, what is rotated goes on, what is revoked is refused soon."""
    url = request.getfixturevalue(f"{store}_url")
    at = ("--store-url", url)
    with service(tmp_path, "--access", "keys", *at) as running:
        text = made(command("create", "--owner", "a", *at))
        assert status(running, text) == 200
        assert status(running, text, "PUT", f"/guid/{GUID}") == 400, "it may write, and has said nothing"
        wait_until(lambda: "used" in listed(command, *at)[id_of(text)], "the note of its use", running.log)
        again = made(command("rotate", id_of(text), "--overlap", "3600", *at))
        assert [status(running, each) for each in (text, again)] == [200, 200]
        at_last = made(command("rotate", id_of(text), "--overlap", "0", *at))
        wait_until(lambda: status(running, text) == 401, "the first secret has ended", running.log)
        wait_until(lambda: status(running, again) == 401, "the second secret has ended", running.log)
        assert status(running, at_last) == 200
        assert command("revoke", id_of(text), *at).returncode == 0
        wait_until(lambda: status(running, at_last) == 401, "it is revoked", running.log)


@pytest.mark.usefixtures("empty_store")
def test_revoked_key_is_rejected_by_every_worker_in_five_seconds(
    command: Command, tmp_path: Path, redis_url: str
) -> None:
    text, other = made(command("create", "--owner", "a")), made(command("create", "--owner", "b"))
    # However often it is asked with the key until then, the address is not locked out.
    with workers(tmp_path, redis_url, "--access", "keys", "--login-limit", "") as running:
        assert all(status(running, text) == 200 for _ in range(20)), "both workers know it"
        assert command("revoke", id_of(text)).returncode == 0
        wait_until(lambda: {status(running, text) for _ in range(10)} == {401}, "all refuse it", running.log, 5.0)
        assert all(status(running, other) == 200 for _ in range(10))


def test_secrets_are_neither_stored_nor_logged(command: Command, tmp_path: Path) -> None:
    """Not in the file, nor in its log, nor in any line of a service that tells all."""
    with service(tmp_path, "--access", "keys", "--log-level", "debug") as running:
        first = made(command("create", "--owner", "a", "--scopes", "admin", GUIDSVC_LOG_LEVEL="debug"))
        assert status(running, first) == 200
        again = made(command("rotate", id_of(first), GUIDSVC_LOG_LEVEL="debug"))
        assert status(running, again) == status(running, first) == 200
        files = [path for path in tmp_path.iterdir() if path.is_file()]
        assert {"guidsvc.db", "guidsvc.db-wal", "server.log"} <= {path.name for path in files}
        kept = b"".join(path.read_bytes() for path in files)
    for text in (first, again):
        shown = keys.parse(text)
        assert shown is not None
        assert keys.digest_of(shown.secret).encode() in kept, "this is how it is kept"
        assert shown.secret.encode() not in kept
