"""The doctor on broken Redis and MongoDB: real servers, of which each has one fault."""

import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pymongo
import pytest
import redis as redis_client

from guidsvc.config import Settings
from guidsvc.doctor import settings as settings_checks
from guidsvc.doctor.backends import keys, mongo, redis, sqlite
from guidsvc.doctor.checks import Check, Closed, run_checks
from guidsvc.doctor.clocks import judge_clock
from guidsvc.doctor.examination import CHECKS
from guidsvc.doctor.findings import Finding, Group, Result, bounded, ok, warn
from guidsvc.store import open_keys, open_store
from guidsvc.store.sqlite.recovery.key_order import find_disorder
from guidsvc.store.sqlite.schema import open_writer
from tests.support.backing_servers import ROOT, Server, free_port, guarded_mongo_server, mongo_server, redis_server
from tests.support.killed_program import run_until_killed
from tests.support.ordinary_user import NOBODY, ordinary_user

OF_MONGODB = {f"store.{name}" for name in ("reach", "replicas", "clock", "exists", "reads", "indexes", "purge")}
RIGHTS = "+ping +info +script|load +evalsha +get +set +del +pttl +pexpire +zadd +zrem +zremrangebyscore +zcount +time"


def examined(checks: Sequence[Check]) -> dict[str, Finding]:
    """Return the worst finding of each check, by its name."""
    found: dict[str, Finding] = {}
    for name, finding in run_checks(checks, (), str):
        known = found.get(name)
        if known is None or Group("", [Result(name, known), Result(name, finding)]).status != known.status:
            found[name] = finding
    return found


def url_of(server: Server, user: str = "") -> str:
    """Return the URL of a Redis."""
    return f"redis://{user}127.0.0.1:{server.port}/0"


# Redis


def test_healthy_redis_is_well_and_left_clean(own_redis: Server) -> None:
    found = examined(redis.checks(url_of(own_redis)))

    assert {finding.status for name, finding in found.items() if name != "redis.latency"} == {"ok"}, found
    assert set(found) == {
        f"redis.{name}" for name in ["reach", "latency", "memory", "cluster", "rights", "server", "clock"]
    }
    with redis_client.Redis(port=own_redis.port) as client:
        assert client.dbsize() == 0


def test_absent_redis_is_found() -> None:
    found = examined(redis.checks(f"redis://:CANARY@127.0.0.1:{free_port()}/0"))

    assert [*found] == ["redis.reach"], "nothing else can be checked"
    assert found["redis.reach"].status == "fail"
    assert found["redis.reach"].remedy == "start Redis, or correct host and port of --cache-url"
    assert "CANARY" not in found["redis.reach"].found


def test_absent_redis_is_named_once() -> None:
    port = free_port()
    found = examined(redis.checks(f"redis://127.0.0.1:{port}/0"))["redis.reach"].found

    assert found == f"Redis at redis://127.0.0.1:{port}/0 does not answer: connection refused: nothing listens there"


def test_frozen_redis_is_found_before_the_check_ends(own_redis: Server) -> None:
    """It accepts connections as before."""
    own_redis.pause()
    found = examined(redis.checks(url_of(own_redis)))["redis.reach"]
    own_redis.resume()

    assert (found.status, found.found) == ("fail", f"Redis at {url_of(own_redis)} does not answer in time")
    assert found.remedy.startswith("see what keeps it busy or stopped: a slow command, a full disk, a paused process")


def test_unknown_host_of_redis_is_to_be_corrected() -> None:
    found = examined(redis.checks("redis://nowhere.invalid:6379/0"))["redis.reach"]

    assert "does not answer: its host name " in found.found
    assert "DNS of this host" in found.remedy
    assert "start Redis" not in found.remedy


def test_wrong_password_of_redis_is_found(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "right") as server:
        found = examined(redis.checks(url_of(server, ":CANARY@")))["redis.reach"]

    assert found.status == "fail"
    assert "rejects the user or the password" in found.found
    assert found.remedy.startswith("correct them")
    assert "CANARY" not in found.found + found.remedy


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], "fail", "evicts keys when its memory is full"),
        (["--maxmemory-policy", "volatile-ttl"], "warn", "would evict keys if its memory were limited (volatile-ttl)"),
    ],
)
def test_evicting_redis_is_found(tmp_path: Path, options: list[str], status: str, text: str) -> None:
    with redis_server(tmp_path, *options) as server:
        found = examined(redis.checks(url_of(server)))["redis.memory"]

    assert (found.status, found.remedy) == (status, "set maxmemory-policy to noeviction")
    assert text in found.found


def test_full_memory_of_redis_is_found(own_redis: Server) -> None:
    with redis_client.Redis(port=own_redis.port) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]))
    found = examined(redis.checks(url_of(own_redis)))["redis.memory"]

    assert (found.status, found.remedy) == ("warn", "raise maxmemory")


def test_missing_right_in_redis_is_found_with_the_grant(tmp_path: Path) -> None:
    user = f"guidsvc on >s3cret ~gs:* {RIGHTS}"
    with redis_server(tmp_path, "--user", *user.split()) as server:
        found = examined(redis.checks(url_of(server, "guidsvc:s3cret@")))

    assert found["redis.rights"].status == "fail"
    assert found["redis.rights"].found == "Redis denies INCRBY"
    assert (
        found["redis.rights"].remedy == "grant the rights: ACL SETUSER NAME ~gs:* +incrby (docs/operations.md#rights)"
    )
    assert found["redis.memory"].status == "ok"


def test_cluster_is_found(tmp_path: Path) -> None:
    bus_port = str(free_port())  # otherwise it is above the other by 10,000, where the kernel assigns ports
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", bus_port) as server:
        found = examined(redis.checks(url_of(server)))["redis.cluster"]

    assert (found.status, found.found) == ("fail", "Redis Cluster is not supported")


def test_replica_is_found(tmp_path: Path, own_redis: Server) -> None:
    with redis_server(tmp_path, "--replicaof", "127.0.0.1", str(own_redis.port)) as server:
        found = examined(redis.checks(url_of(server)))["redis.reach"]

    assert (found.status, found.remedy) == ("fail", "name its master")
    assert found.found == "the server is a replica, which cannot be a cache"


@contextmanager
def forwarding(ports: Sequence[int], delay_seconds: float = 0.0) -> Iterator[int]:
    """Pass each connection on to the next of these ports, and replies after a delay."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def accept() -> None:
            number = 0
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection(("127.0.0.1", ports[number % len(ports)]))
                number += 1
                for connection in (client, server):
                    stack.callback(connection.close)
                for source, target, pause in ((client, server, 0.0), (server, client, delay_seconds)):
                    threading.Thread(target=pump, args=(source, target, pause), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, target: socket.socket, pause: float) -> None:
    """Pass on what comes, until either side ends."""
    try:
        while piece := source.recv(65536):
            time.sleep(pause)
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_proxy_that_spreads_connections_is_found(tmp_path: Path, own_redis: Server) -> None:
    with redis_server(tmp_path) as other, forwarding([own_redis.port, other.port]) as port:
        found = examined(redis.checks(f"redis://127.0.0.1:{port}/0"))["redis.server"]

    assert found.status == "fail"
    assert "reached 2 servers: a proxy spreads them" in found.found
    assert found.remedy.startswith("name the Redis itself")


def test_slow_redis_is_found(own_redis: Server) -> None:
    with forwarding([own_redis.port], 0.15) as port:
        found = examined(redis.checks(f"redis://127.0.0.1:{port}/0"))["redis.latency"]

    assert found.status == "fail"
    assert "the service gives Redis 100 ms" in found.found


# MongoDB


async def test_healthy_mongodb_is_well_and_left_clean(mongo_url: str) -> None:
    async with open_store(mongo_url, exclusive=True):
        pass
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        before = sorted(client.get_default_database().list_collection_names())
        found = examined(mongo.checks(mongo_url))
        assert sorted(client.get_default_database().list_collection_names()) == before

    assert {finding.status for finding in found.values()} == {"ok"}, found
    assert set(found) == {"store.writable", *OF_MONGODB}


def test_doctor_creates_no_database(mongo_url: str) -> None:
    found = examined(mongo.checks(mongo_url))

    assert [*found] == ["store.reach", "store.replicas", "store.clock", "store.exists"]
    assert found["store.exists"].status == "ok"
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        assert mongo_url.rpartition("/")[2] not in client.list_database_names()


def test_absent_mongodb_is_found() -> None:
    found = examined(mongo.checks(f"mongodb://u:CANARY@127.0.0.1:{free_port()}/x"))

    assert [*found] == ["store.reach"]
    assert found["store.reach"].status == "fail"
    assert found["store.reach"].remedy == "start MongoDB, or correct host, port and tls"
    assert "CANARY" not in found["store.reach"].found


def test_frozen_mongodb_is_found_as_silent(own_mongo: Server) -> None:
    """It accepts connections as before."""
    own_mongo.pause()
    found = examined(mongo.checks(f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc"))["store.reach"]
    own_mongo.resume()

    assert (found.status, found.found) == ("fail", "store_url: MongoDB does not answer in time")
    assert found.remedy.startswith("see what keeps it busy or stopped: a full disk, a paused process")


def test_wrong_password_of_mongodb_is_found(tmp_path: Path) -> None:
    with guarded_mongo_server(tmp_path, "u", "right") as server:
        found = examined(mongo.checks(f"mongodb://u:CANARY@127.0.0.1:{server.port}/guidsvc"))["store.reach"]

    assert (found.status, found.remedy) == ("fail", "correct the user, the password or authSource")
    assert "CANARY" not in found.found


async def test_missing_index_is_found(mongo_url: str) -> None:
    async with open_store(mongo_url, exclusive=True):
        pass
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        client.get_default_database()["records"].drop_index("expire_key")
    found = examined(mongo.checks(mongo_url))["store.indexes"]

    assert (found.status, found.found) == ("warn", "missing indexes: records.expire_key")
    assert found.remedy.startswith("start the service, which creates them")


@pytest.mark.parametrize(("hello", "status"), [({}, "fail"), ({"setName": "rs0"}, "ok"), ({"msg": "isdbgrid"}, "ok")])
def test_server_without_replica_set_is_found(hello: dict[str, str], status: str) -> None:
    """The server of the tests is always one of a set, so its reply is judged without it."""
    found = mongo.judge_topology(hello)

    assert found.status == status
    assert status == "ok" or "--replSet" in found.remedy


@pytest.mark.parametrize(("reply", "status"), [({"ttlMonitorEnabled": False}, "warn"), ({}, "ok")])
def test_ttl_monitor_that_is_off_is_found(reply: dict[str, bool], status: str) -> None:
    """The server of the tests has no such parameter, so its reply is judged without it."""
    assert mongo.judge_ttl_monitor(reply).status == status


async def test_user_of_mongodb_without_rights_is_found(tmp_path: Path) -> None:
    with mongo_server(tmp_path, "--sync-on-commit") as server:
        url = f"mongodb://127.0.0.1:{server.port}/guidsvc"
        async with open_store(url, exclusive=True):
            pass
        with pymongo.MongoClient[dict[str, object]](url) as client:
            client["guidsvc"].command("createUser", "u", pwd="p", roles=["read"])
        server.kill()
    with mongo_server(tmp_path, "--auth") as server:
        found = examined(mongo.checks(f"mongodb://u:p@127.0.0.1:{server.port}/guidsvc"))["store.writable"]

    assert (found.status, found.remedy) == ("fail", "grant the user readWrite on the database guidsvc")


async def test_keys_in_mongodb_are_read(mongo_url: str) -> None:
    async with open_keys(mongo_url):
        pass
    settings = Settings(_env_file=None, store_url=mongo_url, access="keys")  # type: ignore[call-arg]
    assert examined(keys.checks(settings, has_store=True))["keys.exist"].status == "fail"


# SQLite, where the fault is of the system


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store."""
    open_writer(tmp_path / "guidsvc.db").close()
    return tmp_path / "guidsvc.db"


@pytest.mark.parametrize(("target", "mode"), [("guidsvc.db", 0o444), (".", 0o555)])
def test_store_without_rights_is_found(target: str, mode: int) -> None:
    with TemporaryDirectory() as folder:  # the folders of pytest are closed to others
        path = Path(folder, "guidsvc.db")
        open_writer(path).close()
        for each in (path, path.parent):
            each.chmod(0o777)
        (path.parent / target).chmod(mode)
        with ordinary_user():
            found = examined(sqlite.checks(path, is_deep=False))["store.writable"]

    assert found.status == "fail"
    assert "writable to this user" in found.found
    assert "change its mode" in found.remedy


def test_file_of_another_user_than_its_folder_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore by root leaves a file that the service cannot open, but root can."""
    if os.geteuid() == 0:
        os.chown(path.parent, NOBODY, -1)
    else:
        monkeypatch.setattr(sqlite, "_user_id", lambda each: NOBODY if each == path.parent else os.geteuid())
    found = examined(sqlite.checks(path, is_deep=False))["store.writable"]

    assert found.status == "warn"
    assert re.search(rf"{path} belongs to {path.owner()} \(mode 0\d00\), and its folder to ", found.found)
    assert f"chown --reference={path.parent} {path}" in found.remedy


KILLED_DOCTOR = """
import sys
from pathlib import Path
from guidsvc.doctor.backends import sqlite
sqlite._write = lambda path: (path.touch(), kill())
sqlite._writable(Path(sys.argv[1]))
"""


def test_probe_of_a_killed_doctor_is_removed_by_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set(path.parent.iterdir())
    run_until_killed(KILLED_DOCTOR, str(path))
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in a container
    found = examined(sqlite.checks(path, is_deep=False))["store.writable"]

    assert found.status == "ok"
    assert set(path.parent.iterdir()) == names


def test_network_file_system_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = path.parent / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:2 / {path.parent} rw,relatime shared:1 - nfs4 server:/export rw\n"
        "3 1 0:3 / /other rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(sqlite, "MOUNTS", mounts)
    found = examined(sqlite.checks(path, is_deep=False))["store.folder"]

    assert (found.status, found.remedy) == ("warn", "move the store to a local disk, or use MongoDB")
    assert "a network file system (nfs4)" in found.found


@pytest.mark.parametrize(
    ("free", "status", "text"), [(1024, "fail", "writes are about to fail"), (32 * 2**20, "warn", "free some space")]
)
def test_disk_that_is_almost_full_is_found(
    path: Path, free: int, status: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    found = examined(sqlite.checks(path, is_deep=False))["store.space"]

    assert found.status == status
    assert text in found.remedy


def test_log_that_another_program_holds_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WAL_BYTES", 100)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
        found = examined(sqlite.checks(path, is_deep=False))["store.log"]

    assert found.status == "warn"
    assert found.remedy == "end other programs that read the store, such as a sqlite3 shell"


def test_slow_check_of_the_pages_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "QUICK_SECONDS", -1.0)
    monkeypatch.setattr(sqlite, "_STEPS", 1)
    found = examined(sqlite.checks(path, is_deep=False))["store.pages"]

    assert (found.status, found.remedy) == ("warn", "run the doctor with --deep when there is time")


@contextmanager
def started_and_changed(path: Path) -> Iterator[None]:
    """Change every page of a store, as a service that starts meanwhile may do."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as service:
        service.execute("DELETE FROM records")
        service.execute("DROP INDEX records_user")
        service.execute("VACUUM")
        service.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield


@pytest.mark.parametrize("is_over", [False, True], ids=["runs", "has stopped again"])
def test_store_that_a_service_opens_meanwhile_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_over: bool
) -> None:
    path = tmp_path / "guidsvc.db"
    with closing(open_writer(path)) as writer:
        writer.executemany(
            "INSERT INTO records VALUES (?, 'u', 1, NULL, '', 1, 1, 1, 1, 1, 0, 1)",
            [(f"{number:032X}",) for number in range(20_000)],
        )
    looks: list[sqlite3.Connection] = []

    with ExitStack() as service:

        def change_once() -> None:
            if len(looks) == 1 and path.stat().st_size > 2**20:
                with ExitStack() as short:
                    (short if is_over else service).enter_context(started_and_changed(path))

        def look(connection: sqlite3.Connection) -> str | None:
            looks.append(connection)
            connection.execute("PRAGMA cache_size = 1")  # as if the store were larger than the cache
            return find_disorder(connection, change_once)

        monkeypatch.setattr(sqlite, "find_disorder", look)
        found = examined(sqlite.checks(path, is_deep=False))["store.pages"]

    assert found.status == "ok", found
    assert len(looks) == 2


def test_log_that_sqlite_removes_meanwhile_is_no_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = path.with_name(f"{path.name}-wal")
    log.touch()
    is_accessible = os.access

    def removing(file: Path, mode: int, *, effective_ids: bool) -> bool:
        if file == log:
            log.unlink()
        return is_accessible(file, mode, effective_ids=effective_ids)

    monkeypatch.setattr(os, "access", removing)
    assert examined(sqlite.checks(path, is_deep=False))["store.writable"].status == "ok"
    assert not log.exists()


# How checks are run


def check(run: Callable[[], Finding], *, is_gate: bool = False) -> Check:
    """Return a check with a short time limit."""
    return Check("group.name", run, 0.2, is_gate=is_gate)


def raising(error: Exception) -> Callable[[], Finding]:
    """Return a check that fails with this error."""

    def run() -> Finding:
        raise error

    return run


def test_check_that_hangs_ends_with_a_finding() -> None:
    over = threading.Event()
    try:
        found = examined([check(lambda: ok(str(over.wait(60))))])["group.name"]
    finally:
        over.set()

    assert (found.status, found.found) == ("fail", "no result within 0.2 s")
    assert "--skip group.name" in found.remedy


def test_check_that_breaks_shows_no_secret() -> None:
    found = examined([check(raising(ValueError("CANARY")))])["group.name"]

    assert (found.status, found.found) == ("fail", "the check itself failed: ValueError")
    assert examined([check(raising(PermissionError(13, "Permission denied", "/x")))])["group.name"].found == (
        "/x: Permission denied"
    )


@pytest.mark.parametrize("closing_run", [raising(Closed(ok("absent"))), raising(OSError(5, "broken"))])
def test_closed_gate_ends_a_group(closing_run: Callable[[], Finding]) -> None:
    assert len(list(run_checks([check(closing_run, is_gate=True), check(lambda: ok("later"))], (), str))) == 1


def test_warning_lifts_its_group() -> None:
    assert Group("a", [Result("x", ok("")), Result("y", warn("", ""))]).status == "warn"
    assert Group("a", []).status == "ok"


def test_texts_are_bounded_and_without_passwords() -> None:
    found = bounded(warn("a\nb redis://u:CANARY@h/0 " + "x" * 1000, "mongodb://u:CANARY@h/x"))

    assert found.found.startswith("a b redis://u:***@h/0 xxx")
    assert len(found.found) == 400
    assert found.remedy == "mongodb://u:***@h/x"


@pytest.mark.parametrize(("there", "text"), [(98.0, "2.0 s ahead of"), (103.0, "2.0 s behind")])
def test_clock_that_differs_is_found(there: float, text: str) -> None:
    found = judge_clock(100.0, there, 101.0, "Redis")

    assert (found.status, found.remedy) == ("fail", "synchronize both clocks (NTP)")
    assert text in found.found
    assert judge_clock(100.0, 100.4, 101.0, "Redis").status == "ok"


def test_every_check_of_the_code_is_in_the_list_of_names() -> None:
    modules = (ROOT / "guidsvc" / "doctor").rglob("*.py")
    names = {name for each in modules for name in re.findall(r'Check\(\s*"([\w.]+)"', each.read_text())}

    assert names | {"settings.values"} == set(CHECKS)


def test_summary_names_what_is_set() -> None:
    assert settings_checks.summary(["--port"]).found == "valid; set: --port"
