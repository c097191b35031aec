"""`guidsvc doctor` on broken set-ups: each fault is found, by a check of a stable name, with what to do."""

import asyncio
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from guidsvc.doctor.backends.deleted_file import open_copies
from guidsvc.domain.api_key import ApiKey, generate
from guidsvc.store.sqlite.schema import MIGRATIONS, open_writer
from tests.conftest import Serving
from tests.support.backing_servers import ROOT, START_SECONDS, free_port, pdapt, service, wait_until
from tests.support.certificates import Certificate
from tests.support.doctor import DoctorReport, doctor, report_of
from tests.support.faulty_disk import set_disk
from tests.support.http_client import Client
from tests.support.sqlite_damage import alter, change_key_in_root
from tests.support.stored_records import fill_store

Plant = Callable[[Path], tuple[str, ...]]
"""Breaks a set-up in a folder, and returns the flags of the service."""
LINK = "tcp://10.0.0.1:8888"


def make_store(folder: Path) -> Path:
    """Create an empty store."""
    path = folder / "guidsvc.db"
    open_writer(path).close()
    return path


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# Settings and host


@pytest.mark.parametrize(
    ("words", "variables", "check", "state", "text"),
    [
        (
            (),
            {"GUIDSVC_STORE_ULR": "x"},
            "settings.values",
            "fail",
            "_STORE_ULR .* did you mean GUIDSVC_STORE_URL",
        ),
        (
            ("--workers", "0"),
            {},
            "settings.values",
            "fail",
            "--workers: must be a whole number .* -> correct the",
        ),
        (("--host", "0.0.0.0"), {}, "settings.values", "fail", "access: required.* other hosts can connect"),
        (("--access", "keys", "--rate-limit", "many"), {}, "settings.values", "fail", "--rate-limit: invalid limit"),
        (("--workers", "2"), {}, "settings.values", "fail", "2 need a shared cache -> use --cache-url redis://"),
        (
            ("--tls-cert", "/nowhere.pem"),
            {},
            "settings.values",
            "fail",
            "requires both the certificate and its key",
        ),
        (("--audit-log", "/nowhere/audit.log"), {}, "settings.values", "fail", "/nowhere/audit.log"),
        (
            ("--host", "0.0.0.0", "--access", "off"),
            {},
            "settings.access",
            "warn",
            "delete all records -> use --access",
        ),
        ((), {"GUIDSVC_PORT": LINK}, "settings.kubernetes", "warn", "GUIDSVC_PORT -> set enableServiceLinks: false"),
        (
            ("--server", "tornado", "--max-incoming-bytes", "2097152"),
            {},
            "settings.unused",
            "warn",
            "--max-incoming-bytes has no effect",
        ),
        (("--trusted-proxies", "0.0.0.0/0"), {}, "settings.proxies", "warn", "0.0.0.0/0 holds strangers"),
        (
            ("--cors-origins", "http://a.example"),
            {},
            "settings.cors",
            "warn",
            "http://a.example .* -> name only https://",
        ),
        (("--max-connections", "99999999"), {}, "host.files", "warn", "100000127 are needed .* -> raise the limit"),
        (("--temp-bytes", str(10**15)), {}, "host.temporary", "warn", "large batches may need .* lower --temp-bytes"),
        (
            ("--workers", "999", "--cache-url", "redis://127.0.0.1:1/0", "--skip", "redis"),
            {},
            "host.cores",
            "warn",
            "999 workers share .* -> use --workers",
        ),
    ],
)
def test_fault_of_settings_or_host_is_found(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], check: str, state: str, text: str
) -> None:
    found = doctor(tmp_path, *words, **variables)

    assert found.worst(check) == state
    assert re.search(text, found.text(check)), found.text(check)
    assert found.code == (2 if state == "fail" else 0)
    assert list(tmp_path.iterdir()) == []


def test_cache_that_is_off_is_named(tmp_path: Path) -> None:
    found = doctor(tmp_path, "--cache-size", "0")

    text = "the cache is off (--cache-size 0): each read goes to the store"
    assert found.findings["settings.cache"] == [("ok", text, "")]
    assert "settings.cache" not in doctor(tmp_path).findings


def issue(folder: Path, days: float) -> tuple[str, ...]:
    """Make a certificate that is valid for some days from now, or no longer; return the flags that name it."""
    now = datetime.now(UTC)
    pair = trustme.CA().issue_cert(
        "127.0.0.1", not_before=now - timedelta(days=90), not_after=now + timedelta(days=days)
    )
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(pair.cert_chain_pems[0].bytes())
    key.write_bytes(pair.private_key_pem.bytes())
    key.chmod(0o600)
    return "--tls-cert", str(certificate), "--tls-key", str(key)


@pytest.mark.parametrize(
    ("days", "state", "text"),
    [(-1, "fail", r"cert.pem expired at \S+ \S+ UTC -> renew it"), (7, "warn", "cert.pem expires at"), (60, "ok", "")],
)
def test_end_of_a_certificate_is_found(tmp_path: Path, days: float, state: str, text: str) -> None:
    found = doctor(tmp_path, *issue(tmp_path, days))

    assert found.worst("settings.tls") == state
    assert re.search(text, found.text("settings.tls"))


def test_missing_access_is_reported_once(tmp_path: Path) -> None:
    found = doctor(tmp_path, "--host", "0.0.0.0")

    assert found.worst("settings.values") == "fail"
    assert "settings.access" not in found.findings


def test_certificate_of_the_tests_is_valid(tmp_path: Path, certificate: Certificate) -> None:
    assert doctor(tmp_path, *certificate.flags).worst("settings.tls") == "ok"


def test_key_of_tls_that_others_can_read_is_found(tmp_path: Path) -> None:
    flags = issue(tmp_path, 60)
    (tmp_path / "key.pem").chmod(0o644)
    found = doctor(tmp_path, *flags)

    assert found.worst("settings.tls") == "warn"
    assert "key.pem is readable by other users (mode 0644) -> run `chmod 600 " in found.text("settings.tls")


def test_key_of_another_certificate_is_found(tmp_path: Path, certificate: Certificate) -> None:
    certificate.key.write_bytes(trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes())
    found = doctor(tmp_path, *certificate.flags)

    assert found.worst("settings.values") == "fail"
    assert re.search(r"does not belong to the certificate in .* -> name the key that", found.text("settings.values"))
    assert found.findings["settings.values"][0][0] == "fail"
    assert "settings.tls" not in found.findings, "it is reported once"


# The store


def without_folder(folder: Path) -> tuple[str, ...]:
    return "--store-url", f"sqlite:///{folder / 'missing' / 'guidsvc.db'}"


def of_another_application(folder: Path) -> tuple[str, ...]:
    alter(folder / "guidsvc.db", "CREATE TABLE theirs (x)")
    return ()


def no_database(folder: Path) -> tuple[str, ...]:
    (folder / "guidsvc.db").write_text("no database" * 99)
    return ()


def of_version(folder: Path, version: int) -> tuple[str, ...]:
    alter(make_store(folder), f"PRAGMA user_version = {version}")
    return ()


def newer(folder: Path) -> tuple[str, ...]:
    return of_version(folder, 9999)


def older(folder: Path) -> tuple[str, ...]:
    return of_version(folder, len(MIGRATIONS) - 1)


def damaged(folder: Path) -> tuple[str, ...]:
    path = make_store(folder)
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 4 * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    return ()


def without_log(folder: Path) -> tuple[str, ...]:
    """Copy a store without its log while it is used."""
    with closing(sqlite3.connect(folder / "used.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE x (y)")
        (folder / "guidsvc.db").write_bytes((folder / "used.db").read_bytes())
    return ()


def replaced_by_a_folder(folder: Path) -> tuple[str, ...]:
    (folder / "guidsvc.db").mkdir()
    return ()


@pytest.mark.parametrize(
    ("plant", "check", "state", "text"),
    [
        (without_folder, "store.folder", "fail", "^--store-url: .*its folder is missing -> create "),
        (of_another_application, "store.file", "fail", "a SQLite file of another application -> name another file"),
        (no_database, "store.file", "fail", "is not a SQLite file -> name another file"),
        (newer, "store.file", "fail", r"written by a newer guidsvc \(schema 9999, not \d+\) -> run that version"),
        (older, "store.file", "warn", "there is no way back -> make a backup before: `python pdapt.py backup TARGET"),
        (damaged, "store.pages", "fail", "the store is damaged: .* -> see docs/failure-modes.md: restore a backup"),
        (without_log, "store.file", "fail", "it was copied without its log"),
        (replaced_by_a_folder, "store.file", "fail", "is a folder -> |cannot be read: Is a directory -> name another"),
    ],
)
def test_fault_of_a_sqlite_store_is_found(tmp_path: Path, plant: Plant, check: str, state: str, text: str) -> None:
    flags = plant(tmp_path)
    before = files(tmp_path)
    found = doctor(tmp_path, *flags)

    assert found.worst(check) == state
    assert re.search(text, found.text(check)), found.text(check)
    assert found.code == (2 if state == "fail" else 0)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("full", "the disk is full -> free some space"),
        ("read-only", "rejects writes: disk I/O error -> see whether the file system is read-only"),
    ],
)
def test_disk_that_takes_no_writes_is_found(tmp_path: Path, state: str, text: str) -> None:
    make_store(tmp_path)
    set_disk(tmp_path, state)
    program = [sys.executable, str(ROOT / "tests" / "support" / "faulty_disk.py"), "doctor", "--json", "--port", "1"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    found = report_of(done)

    assert found.worst("store.writable") == "fail"
    assert text in found.text("store.writable")
    assert sorted(files(tmp_path)) == ["disk", "guidsvc.db"]


async def test_key_out_of_order_is_found(tmp_path: Path, serving: Serving) -> None:
    async with serving() as client:
        await fill_store(client)
    change_key_in_root(tmp_path / "guidsvc.db", "records")
    found = doctor(tmp_path)

    assert (found.code, found.worst("store.pages")) == (2, "fail")
    assert "the keys of records are out of order -> see docs/failure-modes.md" in found.text("store.pages")


def test_deep_examination_reads_the_indexes(tmp_path: Path) -> None:
    """An index without a row of its table is found by nothing less."""
    path = make_store(tmp_path)
    alter(path, "INSERT INTO receipts VALUES ('a', 'b', 1, 0, 's', 0, NULL, 77)")
    entry = bytes([3, 1, 15, 77]) + b"a"  # of the index by `purge_at`: the types, the time and the key
    content = path.read_bytes()
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, bytes([3, 1, 15, 78]) + b"a"))

    assert doctor(tmp_path).worst("store.pages") == "ok"
    assert doctor(tmp_path, "--deep").worst("store.pages") == "fail"


# Keys


def with_keys(folder: Path, *keys: tuple[str, ...]) -> DoctorReport:
    """Examine a store with these keys: the words with which each is created."""
    make_store(folder)
    for words in keys:
        assert pdapt(folder, "keys", "create", "--owner", "a", *words).returncode == 0
    return doctor(folder, "--access", "keys")


def test_store_without_keys_is_found(tmp_path: Path) -> None:
    found = with_keys(tmp_path)

    assert (found.code, found.worst("keys.exist")) == (2, "fail")
    assert "every request is rejected -> create one: `python pdapt.py keys create --owner NAME`" in found.text(
        "keys.exist"
    )
    assert doctor(tmp_path / "..", "--access", "keys", "--store-url", "sqlite:///none.db").worst("keys.exist") == "fail"


def test_revoked_keys_do_not_count(tmp_path: Path) -> None:
    found = with_keys(tmp_path, ("--scopes", "admin"))
    (_, text, _) = found.findings["keys.endless"][0]
    (key,) = re.findall(r"the key (\w{12}) ", text)
    assert pdapt(tmp_path, "keys", "revoke", key).returncode == 0

    assert doctor(tmp_path, "--access", "keys").worst("keys.exist") == "fail"


def test_fault_of_the_store_is_reported_once(tmp_path: Path) -> None:
    """The keys in it are not looked for."""
    no_database(tmp_path)
    found = doctor(tmp_path, "--access", "keys")

    assert found.worst("store.file") == "fail"
    assert not any(name.startswith("keys.") for name in found.findings)


def test_missing_admin_and_expiring_keys_are_found(tmp_path: Path) -> None:
    found = with_keys(tmp_path, ("--expires", "3d"))

    assert (found.code, found.worst("keys.admin"), found.worst("keys.expiry")) == (0, "warn", "warn")
    assert "nobody can manage keys over HTTP -> create one" in found.text("keys.admin")
    assert re.search(r"the key \w{12} expires within 14 days -> ", found.text("keys.expiry"))


def test_admin_without_end_is_found(tmp_path: Path) -> None:
    found = with_keys(tmp_path, ("--scopes", "admin"))

    assert found.worst("keys.endless") == "warn"
    assert re.search(
        r"the key (\w{12}) may do everything, and never expires .* keys revoke \1`", found.text("keys.endless")
    )
    assert found.findings["keys.exist"] == [("ok", "1 valid key", "")]
    assert found.findings["keys.admin"] == [("ok", "1 key with the scope admin", "")]
    assert {found.worst(f"keys.{name}") for name in ("exist", "admin", "expiry")} == {"ok"}


def test_key_set_that_cannot_be_fetched_is_found(tmp_path: Path) -> None:
    at = f"http://127.0.0.1:{free_port()}/jwks"
    found = doctor(tmp_path, "--access", "keys", "--jwt-jwks", at, "--jwt-issuer", "i", "--jwt-audience", "a")

    assert found.worst("keys.jwks") == "fail"
    assert "make it reachable, or correct the URL" in found.text("keys.jwks")
    assert found.worst("keys.exist") == "ok", "callers have tokens"


# The service


@pytest.mark.parametrize("body", [b"{}", b"[" * 4000])
def test_other_program_at_the_port_is_found(tmp_path: Path, body: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=answer_once, args=(listener, body), daemon=True)
        answering.start()
        found = doctor(tmp_path, "--port", str(listener.getsockname()[1]))

    assert found.worst("service.address") == "fail"
    assert "another program answers at" in found.text("service.address")
    assert "service.ready" not in found.findings


def answer_once(listener: socket.socket, body: bytes) -> None:
    """Answer one request as another web server."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def test_healthy_service_is_examined_while_it_runs(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        before = set(files(tmp_path))
        found = doctor(tmp_path, "--port", str(running.port), "--strict")
        assert set(files(tmp_path)) == before

        states = {
            name: found.worst(name) for name in found.findings if name != "service.load"
        }  # a busy machine is slow
        assert set(states.values()) == {"ok"}, states
        assert found.findings["service.address"][0][1].startswith("guidsvc ")
        assert re.match(rf"used by process {running.process.pid} \(", found.findings["store.user"][0][1])
        assert found.findings["service.load"][0][1].startswith("the event loop ")
    assert doctor(tmp_path).findings["store.user"] == [("ok", "no process uses it", "")]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--unix-socket", "/nowhere/s.sock"), "--unix-socket: /nowhere/s.sock: No such file or directory"),
        (("--unix-socket", "occupied"), "--unix-socket: occupied: Address already in use"),
        (("--host", "192.0.2.7", "--access", "off"), "cannot listen on 192.0.2.7.* -> use an address of this host"),
    ],
)
def test_address_that_a_start_cannot_use_is_found(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    (tmp_path / "occupied").write_text("")
    found = doctor(tmp_path, *words)

    assert (found.code, found.worst("service.address")) == (2, "fail")
    assert re.search(text, found.text("service.address")), found.text("service.address")
    assert set(files(tmp_path)) == {"occupied"}


def test_socket_without_a_listener_stays_where_it_is(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "s.sock"))
    found = doctor(tmp_path, "--unix-socket", str(tmp_path / "s.sock"))

    assert found.worst("service.address") == "ok"
    assert (tmp_path / "s.sock").is_socket()


def test_store_that_a_service_elsewhere_uses_is_found(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        found = doctor(tmp_path)

    assert (found.code, found.worst("service.address")) == (2, "fail")
    text = rf"--store-url: .*guidsvc.db is used by process {running.process.pid} .* nothing answers .* -> stop that"
    assert re.search(text, found.text("service.address")), found.text("service.address")


def test_service_of_another_store_is_found(tmp_path: Path) -> None:
    make_store(tmp_path)
    (tmp_path / "other").mkdir()
    with service(tmp_path / "other") as running:
        found = doctor(tmp_path, "--port", str(running.port))

    assert found.worst("service.address") == "warn"
    assert "but no process on this host uses sqlite:" in found.text("service.address")


def test_degraded_service_is_found(tmp_path: Path) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    with service(tmp_path, "--cache-url", nobody) as running:
        found = doctor(tmp_path, "--port", str(running.port), "--cache-url", nobody)

    assert found.worst("service.ready") == "warn"
    assert "degraded: store up, cache down" in found.text("service.ready")
    assert found.worst("redis.reach") == "fail"


@pytest.mark.parametrize("are_all_deleted", [False, True])
async def test_deleted_store_of_a_running_service_is_rescued(tmp_path: Path, *, are_all_deleted: bool) -> None:
    """The steps are those of docs/failure-modes.md."""
    with service(tmp_path) as running:
        client = Client(running.port)
        assert (await client.post("/guid", {"user": "a"})).status == 201
        await client.aclose()
        database = tmp_path / "guidsvc.db"
        size_before = database.stat().st_size
        for each in tmp_path.glob("guidsvc.db*" if are_all_deleted else "guidsvc.db"):
            each.unlink()
        ((_, copy),) = open_copies(database)
        await asyncio.to_thread(
            wait_until, lambda: copy.stat().st_size > size_before, "the log in the deleted file", running.log
        )
        found = await asyncio.to_thread(doctor, tmp_path, "--port", str(running.port))

        assert (found.code, found.worst("store.file"), found.worst("service.ready")) == (2, "fail", "fail")
        text = rf"guidsvc.db was deleted, and only process {running.process.pid} \(.* do not stop .* `cp (/proc/\S+) "
        match = re.search(text, found.text("store.file"))
        assert match, found.text("store.file")
        shutil.copyfile(match[1], tmp_path / "rescued.db")
        copied = await asyncio.to_thread(pdapt, tmp_path, "backup", "--store-url", "sqlite:///rescued.db", "checked.db")
    assert "checked.db: 1 record, " in copied.stdout, copied.stderr


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("", "was removed while .* -> do not stop them"), ("-wal", "was removed or replaced while .* -> stop all")],
)
def test_file_moved_from_a_running_service_is_found(tmp_path: Path, suffix: str, text: str) -> None:
    with service(tmp_path) as running:
        (tmp_path / f"guidsvc.db{suffix}").rename(tmp_path / "away")
        wait_until(lambda: "store file removed" in running.log.read_text(), "the loss is noticed", running.log)
        found = doctor(tmp_path, "--port", str(running.port))

    assert found.code == 2
    assert re.search(text, found.text("store.file")), found.text("store.file")
    assert "cache up -> a file of the store was removed or replaced" in found.text("service.ready")


async def test_program_that_locks_the_store_is_found(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        client = Client(running.port)
        with closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            assert (await client.post("/guid", {"user": "a"})).status == 503
            found = await asyncio.to_thread(doctor, tmp_path, "--port", str(running.port))
        await client.aclose()

    assert f"process {os.getpid()} (" in found.text("store.user")
    assert "locks the file, so the service cannot write -> end this program" in found.text("store.user")
    assert "store read-only" in found.text("service.ready")
    assert "another program locks the file" in found.text("service.ready")


def test_service_that_speaks_tls_is_found(tmp_path: Path, certificate: Certificate) -> None:
    with service(tmp_path, *certificate.flags) as running:
        plain = doctor(tmp_path, "--port", str(running.port))
        right = doctor(tmp_path, "--port", str(running.port), *certificate.flags)

    assert plain.worst("service.address") == "fail"
    assert "if the service speaks TLS, give its --tls-cert and --tls-key" in plain.text("service.address")
    assert right.worst("service.address") == right.worst("service.ready") == "ok"


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_load_is_read_with_the_key_of_clients(tmp_path: Path, certificate: Certificate, *, is_encrypted: bool) -> None:
    flags = ("--access", "keys", *(certificate.flags if is_encrypted else ()))
    key = pdapt(tmp_path, "keys", "create", "--new-store", "--owner", "a", "--scopes", "monitor").stdout.strip()
    with service(tmp_path, *flags) as running:
        at = ("--port", str(running.port), *flags)
        without, allowed = doctor(tmp_path, *at), doctor(tmp_path, *at, GUIDSVC_KEY=key)
        rejected = doctor(tmp_path, *at, GUIDSVC_KEY=key[:-1])

    assert "set GUIDSVC_KEY to a key with the scope monitor" in without.findings["service.load"][0][1]
    assert allowed.findings["service.load"][0][1].startswith("the event loop ")
    assert "the service rejects the key in GUIDSVC_KEY" in rejected.findings["service.load"][0][1]
    assert rejected.worst("service.load") == "warn"


# The command


def test_findings_are_printed_with_remedies_and_a_summary(tmp_path: Path) -> None:
    words = ("--port", str(free_port()), "--host", "0.0.0.0", "--access", "off")
    done = pdapt(tmp_path, "doctor", *words)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "warn  settings", "a group is as bad as its worst check"
    at = next(number for number, line in enumerate(lines) if line.startswith("warn    settings.access: off, and other"))
    assert lines[at + 1] == "        -> use --access keys, or listen on 127.0.0.1"
    assert re.fullmatch(r"\d+ ok, 1 warn, 0 fail", lines[-1])
    assert pdapt(tmp_path, "doctor", *words, "--strict").returncode == 1


def test_checks_and_groups_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "guidsvc.db").write_text("no database" * 99)
    found = doctor(tmp_path, "--skip", "store", "--skip", "host.python", "--skip", "settings.values")

    assert found.code == 0
    assert not any(name.startswith("store.") for name in found.findings)
    assert {"host.python", "settings.values"}.isdisjoint(found.findings)
    assert "host.files" in found.findings
    refused = pdapt(tmp_path, "doctor", "--skip", "reddis")
    assert refused.returncode == 2
    assert "argument --skip: there is no check 'reddis'; name one as the doctor prints it" in refused.stderr


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_secrets_are_never_shown(tmp_path: Path, words: tuple[str, ...]) -> None:
    urls = {
        "GUIDSVC_STORE_URL": f"mongodb://u:CANARY1@127.0.0.1:{free_port()}/x?authSource=a",
        "GUIDSVC_CACHE_URL": f"redis://u:CANARY2@127.0.0.1:{free_port()}/0",
    }
    (tmp_path / "audience").write_text("CANARY3")
    done = pdapt(
        tmp_path,
        "doctor",
        *words,
        GUIDSVC_JWT_AUDIENCE_FILE="audience",
        GUIDSVC_KEY="CANARY4",
        GUIDSVC_PORT="1",
        **urls,
    )

    assert done.returncode == 2
    assert "MongoDB cannot be used" in done.stdout
    assert "CANARY" not in done.stdout + done.stderr


def test_document_has_groups_with_their_checks(tmp_path: Path) -> None:
    done = pdapt(tmp_path, "doctor", "--json", "--port", "1", "--workers", "0")
    document = json.loads(done.stdout)

    assert set(document) == {"status", "groups"}
    assert (document["status"], document["groups"][0]["name"], document["groups"][0]["status"]) == (
        "fail",
        "settings",
        "fail",
    )
    assert set(document["groups"][0]["checks"][0]) == {"name", "status", "found", "remedy"}


def test_doctor_creates_no_store(tmp_path: Path) -> None:
    found = doctor(tmp_path)

    assert (found.code, found.findings["store.file"][0][0]) == (0, "ok")
    assert list(tmp_path.iterdir()) == []


def test_store_after_a_crash_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    """Its log stays beside it: the next start completes what is in it."""
    with service(tmp_path) as running:
        running.process.kill()
        running.process.wait(START_SECONDS)
    before = files(tmp_path)
    found = doctor(tmp_path)

    assert len(before["guidsvc.db-wal"]) > 0
    assert (found.code, found.worst("store.pages"), found.worst("store.file")) == (0, "ok", "ok")
    after = files(tmp_path)
    assert {name: after[name] for name in after if not name.endswith("-shm")} == {
        name: before[name] for name in before if not name.endswith("-shm")
    }


def test_generated_keys_do_not_appear(tmp_path: Path) -> None:
    """Not the digests of their secrets either."""
    key, _ = generate("a", ["admin"], 1)
    path = make_store(tmp_path)
    columns = ", ".join(ApiKey.model_fields)
    places = ", ".join("?" * len(ApiKey.model_fields))
    alter(path, f"INSERT INTO keys ({columns}) VALUES ({places})", *key.model_dump().values())
    done = pdapt(tmp_path, "doctor", "--access", "keys", "--port", "1")
    assert key.id in done.stdout
    assert key.digest not in done.stdout + done.stderr
