"""Disks that are full or read-only; damaged pages, rows, cached values and documents.

The fault is reported, with its request id in the log. Acknowledged writes are not lost, other
records are served, and writes continue after the fault without a restart.
"""

import asyncio
import json
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from tests.conftest import ExpectedLogs, Serving
from tests.support.backing_servers import ROOT, START_SECONDS, Service, free_port, service, wait_until
from tests.support.faulty_disk import set_disk
from tests.support.http_client import Client, Reply
from tests.support.readiness import until_ready
from tests.support.sqlite_damage import overwrite_root
from tests.support.stored_records import GUIDS, damage, fill_store, metadata
from tests.support.supervised_service import lines_of, workers

FAULTY = ROOT / "tests" / "support" / "faulty_disk.py"
NDJSON = {"Accept": "application/x-ndjson"}
BAD, GOOD = GUIDS[300], GUIDS[0]
"""BAD is beyond the first page that a stream reads."""


def path_of(guid: str) -> str:
    """Return the path of a GUID."""
    return f"/guid/{guid}"


# The disk


class Full:
    """A full disk: ENOSPC for every write that extends a file."""

    state = "full"

    def __init__(self, running: Service, folder: Path) -> None:
        self._folder = folder

    def fail(self) -> None:
        """Start to fail."""
        set_disk(self._folder, self.state)

    def heal(self) -> None:
        """Stop failing."""
        set_disk(self._folder, "")


class ReadOnly(Full):
    """A file system that became read-only: EROFS for every write."""

    state = "read-only"


class SizeLimited:
    """The file size limit of the process: EFBIG, from the kernel itself."""

    def __init__(self, running: Service, folder: Path, *, free_bytes: int = 0) -> None:
        self._pid = running.process.pid
        self._free_bytes = free_bytes
        self._log = folder / "guidsvc.db-wal"
        self._former_limit = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)

    def fail(self) -> None:
        """Start to fail."""
        limit = self._log.stat().st_size + self._free_bytes
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (limit, self._former_limit[1]))

    def heal(self) -> None:
        """Stop failing."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._former_limit)


class Writers:
    """Clients that write GUIDs of their own, and record acknowledged and rejected writes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acknowledged: dict[str, str] = {}
        self.rejected: set[tuple[str, str]] = set()
        self.unknown = 0
        self.is_over = False
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def write(self, writer: int) -> None:
        """Write until it is over."""
        number = 0
        while not self.is_over:
            await self.may_write.wait()
            number += 1
            guid, user = f"{0xF:016X}{16 * (number // 3) + writer:016X}", f"{writer} {number}"
            reply = await self._client.put(path_of(guid), {"user": user, "metadata": metadata(number)})
            assert reply.status in {200, 201, 503, 504}, reply
            if reply.status == 503:
                assert reply.headers["Retry-After"]
                self.rejected.add((guid, user))
            elif reply.status == 504:
                self.unknown += 1
                self.acknowledged.pop(guid, None)
            else:
                self.acknowledged[guid] = user

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, while the clients write."""
        while not condition():
            await asyncio.sleep(0)


@contextmanager
def on_faulty_disk(folder: Path) -> Iterator[Service]:
    """Run a service within the block, on a disk that can fail."""
    with service(folder, "--no-access-log", program=FAULTY) as running:
        yield running


async def assert_file_is_logged(client: Client, running: Service, reply: Reply) -> None:
    """Check that the log names the file under the request id."""
    request_id = reply.headers["X-Request-Id"]

    def is_logged() -> bool:
        lines = [line for line in running.log.read_text().splitlines() if request_id in line]
        return any("guidsvc.db" in line for line in lines)

    await asyncio.to_thread(wait_until, is_logged, f"the file, for {request_id}", running.log)


@pytest.mark.parametrize("kind", [Full, ReadOnly, SizeLimited])
async def test_unwritable_disk_rejects_writes_and_loses_nothing(
    tmp_path: Path, kind: type[Full] | type[SizeLimited]
) -> None:
    with on_faulty_disk(tmp_path) as running:
        client, disk = Client(running.port), kind(running, tmp_path)
        await fill_store(client)
        writers = Writers(client)
        tasks = [asyncio.create_task(writers.write(number)) for number in range(8)]
        await writers.until(lambda: len(writers.acknowledged) > 40)
        disk.fail()
        await writers.until(lambda: len(writers.rejected) > 40)
        unknown = writers.unknown

        writers.may_write.clear()  # otherwise their rejections would use up the limit of such log lines
        for method, body in (("PUT", {"user": "new"}), ("PATCH", {"user": "new"}), ("DELETE", None)):
            reply = await client.ask(method, path_of(BAD), json=body)
            assert (reply.status, reply.json["code"]) == (503, "unavailable")
            await assert_file_is_logged(client, running, reply)
        writers.may_write.set()
        assert (await client.post("/guid", {"user": "new"})).status == 503
        assert (await client.get(path_of(BAD))).json["user"] == "user0300"
        assert (await client.get("/guid?limit=5")).status == 200
        assert len((await client.get("/guid", headers=NDJSON)).lines) >= len(GUIDS)
        operations = [{"guid": BAD, "user": "new"}, {"op": "get", "guid": BAD}]
        results = (await client.post("/guid:batch", {"operations": operations})).json["results"]
        assert [result["status"] for result in results] == [503, 200]
        ready = await until_ready(client, store="read-only")
        assert (ready.status, ready.json["status"], ready.json["cache"]) == (200, "degraded", "up")
        assert writers.unknown == unknown, "only writes in flight at the start of the fault have an unknown outcome"

        disk.heal()
        acknowledged_before = len(writers.acknowledged)
        await writers.until(lambda: len(writers.acknowledged) > acknowledged_before + 40)
        await until_ready(client, status="ready")
        writers.is_over = True
        await asyncio.gather(*tasks)
        running.kill()
        await client.aclose()
    if kind is Full:
        assert writers.unknown == 0
    await _assert_nothing_lost(tmp_path, writers)


async def _assert_nothing_lost(folder: Path, writers: Writers) -> None:
    """Restart the service; check that it has all acknowledged writes and no rejected one."""
    with service(folder, "--no-access-log") as restarted:
        client = Client(restarted.port)
        stored = {record["guid"]: record["user"] for record in (await client.get("/guid", headers=NDJSON)).lines}
        await client.aclose()
    assert stored.items() >= writers.acknowledged.items()
    assert not writers.rejected & stored.items()
    with closing(sqlite3.connect(folder / "guidsvc.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("is_shared", [False, True], ids=["one process", "shared"])
async def test_service_starts_on_a_full_disk_and_serves_reads(
    tmp_path: Path, redis_url: str, *, is_shared: bool
) -> None:
    options = ("--cache-url", redis_url) if is_shared else ()
    with service(tmp_path, "--no-access-log", *options, program=FAULTY) as first:
        client = Client(first.port)
        await client.put(path_of(GOOD), {"user": "x"})
        first.kill()
        await client.aclose()
    set_disk(tmp_path, "full")
    with service(tmp_path, "--no-access-log", *options, program=FAULTY) as again:
        client = Client(again.port)
        assert (await client.get(path_of(GOOD))).json["user"] == "x"
        assert (await client.get("/guid?limit=5")).status == 200
        assert (await client.put(path_of(GOOD), {"user": "y"})).status == 503
        ready = await until_ready(client, store="read-only")
        assert (ready.status, ready.json["status"]) == (200, "degraded")
        assert again.log.read_text().count("store cannot be written, starting with reads only") == 1

        set_disk(tmp_path, "")
        await until_ready(client, store="up")
        assert (await client.put(path_of(GOOD), {"user": "y"})).status == 200
        assert (await client.get(path_of(GOOD))).json["user"] == "y"
        await client.aclose()


@pytest.mark.slow
async def test_workers_start_on_a_full_disk_and_serve_reads(tmp_path: Path, redis_url: str) -> None:
    """The first worker holds the file alone until it can write; the others wait for it."""
    with service(tmp_path, "--no-access-log", "--cache-url", redis_url, program=FAULTY) as first:
        client = Client(first.port)
        await client.put(path_of(GOOD), {"user": "x"})
        first.kill()
        await client.aclose()
    set_disk(tmp_path, "full")
    with workers(tmp_path, redis_url, program=FAULTY) as again:
        await asyncio.to_thread(wait_until, lambda: bool(lines_of(again, "serving")), "the banner", again.log)
        for _ in range(4):
            client = Client(again.port)
            assert (await client.get(path_of(GOOD))).json["user"] == "x"
            assert (await client.put(path_of(GOOD), {"user": "y"})).status == 503
            await client.aclose()
        failed = lines_of(again, "worker cannot be started")[0]
        assert failed["worker"] == 2
        assert failed["error"].startswith(f"a worker of this service holds {tmp_path / 'guidsvc.db'} alone")
        again.process.send_signal(signal.SIGHUP)
        kept = "reload failed, keeping the current workers"
        await asyncio.to_thread(wait_until, lambda: bool(lines_of(again, kept)), "the failed reload", again.log)
        assert lines_of(again, kept)[0]["error"] == failed["error"]

        set_disk(tmp_path, "")
        restarted = "worker restarted"
        await asyncio.to_thread(wait_until, lambda: bool(lines_of(again, restarted)), "the second worker", again.log)
        client = Client(again.port)
        await until_ready(client, store="up", workers=2)
        assert (await client.put(path_of(GOOD), {"user": "y"})).status == 200
        await client.aclose()


def test_start_without_space_for_the_log_says_so(tmp_path: Path) -> None:
    with service(tmp_path):
        pass  # its end removes the log
    set_disk(tmp_path, "full")
    command = [sys.executable, str(FAULTY), "--port", str(free_port())]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=START_SECONDS, check=False)

    assert ended.returncode != 0
    assert "guidsvc.db has no space for its files -wal and -shm: the disk is full; free some space" in ended.stderr


async def test_keyed_request_is_executed_once_after_a_full_disk(tmp_path: Path) -> None:
    async def create() -> Reply:
        return await client.post("/guid", {"user": "once"}, headers={"Idempotency-Key": "key"})

    with on_faulty_disk(tmp_path) as running:
        client, disk = Client(running.port), Full(running, tmp_path)
        disk.fail()
        assert (await create()).status == 503
        disk.heal()
        response, repeated = await create(), await create()
        listed = (await client.get("/guid", headers=NDJSON)).lines
        await client.aclose()

    assert (response.status, repeated.status) == (201, 201)
    assert response.body == repeated.body
    assert [record["user"] for record in listed] == ["once"]


@pytest.mark.slow
async def test_keyed_creation_stays_unknown_on_a_read_only_disk(tmp_path: Path) -> None:
    """The record does not fit into the file, so its outcome is unknown; the receipt of the request does fit."""
    large = {"user": "large", "metadata": {"x": "x" * 16_000}}

    async def create() -> Reply:
        return await client.post("/guid", large, headers={"Idempotency-Key": "key"})

    with on_faulty_disk(tmp_path) as running:
        client, disk = Client(running.port), ReadOnly(running, tmp_path)
        small_disk = SizeLimited(running, tmp_path, free_bytes=24 * 1024)
        await client.put(path_of(GOOD), {"user": "first"})
        small_disk.fail()
        first = await create()
        disk.fail()
        small_disk.heal()
        await client.put(path_of(GOOD), {"user": "not stored"})
        await until_ready(client, store="read-only")
        async with asyncio.timeout(START_SECONDS):  # the receipt stays claimed until its lease ends
            while (retry := await create()).status == 409:
                await asyncio.sleep(0.1)
        disk.heal()
        await until_ready(client, status="ready")
        again, last = await create(), await create()
        listed = (await client.get("/guid", headers=NDJSON)).lines
        await client.aclose()

    assert (first.status, retry.status, again.status) == (504, 504, 201)
    assert first.json["guid"] == retry.json["guid"] == again.json["guid"]
    assert (last.body, last.headers["Idempotent-Replayed"]) == (again.body, "true")
    assert sorted(record["user"] for record in listed) == ["first", "large"]


async def test_keyed_batch_is_completed_after_an_io_error(tmp_path: Path) -> None:
    """The last records do not fit into the file, so their outcome is unknown; the receipt of the request does fit."""
    reads: list[dict[str, Any]] = [{"op": "get", "guid": BAD}] * 127
    large = {"user": "large", "metadata": {"x": "x" * 16_000}}
    operations = [{"user": "small"}, *reads, *[large] * 20]

    async def send() -> Reply:
        return await client.post("/guid:batch", {"operations": operations}, headers={"Idempotency-Key": "key"})

    with on_faulty_disk(tmp_path) as running:
        client, disk = Client(running.port), SizeLimited(running, tmp_path, free_bytes=128 * 1024)
        await client.put(path_of(GOOD), {"user": "first"})
        disk.fail()
        first = await send()
        disk.heal()
        await until_ready(client, status="ready")
        again, last = await send(), await send()
        listed = (await client.get("/guid", headers=NDJSON)).lines
        await client.aclose()

    results, final = first.json["results"], again.json["results"]
    assert [each["status"] for each in results] == [201, *[404] * 127, *[504] * 20]
    assert [each["status"] for each in final] == [201, *[404] * 127, *[201] * 20]
    assert final[:128] == results[:128]
    assert [each["guid"] for each in final[128:]] == [each["guid"] for each in results[128:]]
    assert (last.body, last.headers["Idempotent-Replayed"]) == (again.body, "true")
    assert sorted(record["user"] for record in listed) == ["first", *["large"] * 20, "small"]


async def test_unwritable_log_does_not_prevent_responses(tmp_path: Path) -> None:
    with service(tmp_path, program=_program_with_full_log(tmp_path)) as running:
        client = Client(running.port)
        for _ in range(3):
            assert (await client.put(path_of(GOOD), {"user": "x"})).status in {200, 201}
            assert (await client.get(path_of(BAD))).status == 404
        await client.aclose()


def _program_with_full_log(folder: Path) -> Path:
    """Return a program that runs the service with its log on a full disk."""
    program = folder / "to_full.py"
    program.write_text(
        f"import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 2)\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from guidsvc.cli.main import main\nmain()\n"
    )
    return program


# The lock of the file


@pytest.mark.slow
async def test_lock_of_another_program_is_reported_until_its_end(tmp_path: Path) -> None:
    async def write(guid: str = GOOD) -> Reply:
        return await client.put(path_of(guid), {"user": "new"})

    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        await client.put(path_of(GOOD), {"user": "first"})
        with closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            assert (await write()).status == 503
            ready = await until_ready(client, store="read-only")
            assert (ready.status, ready.json["status"]) == (200, "degraded")
            for _ in range(5):
                replies = await asyncio.gather(*map(write, GUIDS[:8]))
                assert {reply.status for reply in replies} == {503}
                assert (await client.get("/readyz")).json["store"] == "read-only"
                assert (await client.get(path_of(GOOD))).json["user"] == "first"
            await assert_file_is_logged(client, running, replies[0])
            lock.execute("ROLLBACK")
        await until_ready(client, status="ready")
        assert (await write()).status == 200
        await client.aclose()
        log = running.log.read_text()
    assert (log.count("store rejects writes"), log.count("store accepts writes again")) == (1, 1)


# The write-ahead log, pages and rows


async def test_damaged_log_is_reported_and_copied(tmp_path: Path) -> None:
    with service(tmp_path, "--no-access-log") as first:
        client = Client(first.port)
        for guid in GUIDS[:40]:
            assert (await client.put(path_of(guid), {"user": "x"})).status == 201
        cursor = (await client.get("/events?from=now")).json["next"]
        await client.aclose()
        first.kill()
    wal = tmp_path / "guidsvc.db-wal"
    content = bytearray(wal.read_bytes())
    content[len(content) // 2] ^= 1
    wal.write_bytes(content)
    with service(tmp_path, "--no-access-log") as again:
        client = Client(again.port)
        assert (await client.get(path_of(GUIDS[0]))).status == 200
        assert (await client.get(path_of(GUIDS[39]))).status == 404
        assert (await client.put(path_of(GUIDS[39]), {"user": "x"})).status == 201
        assert (await client.get(f"/events?cursor={cursor}")).status == 410
        await client.aclose()
        (copy,) = tmp_path.glob("guidsvc.db-wal.damaged-*")
        assert copy.read_bytes() == content
        assert again.log.read_text().count("write-ahead log damaged, writes are lost") == 1


@pytest.fixture
async def damaged_service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Client, Service]]:
    """A service whose file has a damaged page: the page with the record BAD, or the one with its index entry."""
    with service(tmp_path) as undamaged:
        client = Client(undamaged.port)
        await fill_store(client)
        await client.aclose()
    damage(tmp_path, *request.param)
    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        yield client, running
        await client.aclose()


IN_RECORDS = (b"mark0300",)
IN_INDEX = (b"user0300" + BAD.encode(), b"mark")


@pytest.mark.parametrize("damaged_service", [IN_RECORDS], indirect=True)
async def test_damaged_page_is_reported_and_other_pages_are_served(damaged_service: tuple[Client, Service]) -> None:
    client, running = damaged_service
    for method, body in (("GET", None), ("HEAD", None), ("PUT", {"user": "new"}), ("PATCH", {"user": "new"})):
        reply = await client.ask(method, path_of(BAD), json=body)
        assert reply.status == 500
        await assert_file_is_logged(client, running, reply)
    assert (await client.delete(path_of(BAD))).status == 500

    for guid in (GUIDS[0], GUIDS[-1]):
        assert (await client.get(path_of(guid))).status == 200
        assert (await client.put(path_of(guid), {"user": "new"})).status == 200
    assert (await client.get("/guid?limit=100")).status == 200
    assert (await client.get("/guid?limit=400")).status == 500
    operations = [{"op": "get", "guid": guid} for guid in (GOOD, BAD)]
    results = (await client.post("/guid:batch", {"operations": operations})).json["results"]
    assert [result["status"] for result in results] == [200, 500]
    assert (await client.get("/readyz")).json["status"] == "ready"


async def test_damaged_receipts_do_not_prevent_the_start(tmp_path: Path) -> None:
    async def create(key: str) -> int:
        return (await client.post("/guid", {"user": "x"}, headers={"Idempotency-Key": key})).status

    with service(tmp_path) as first:
        client = Client(first.port)
        assert await create("one") == 201
        await client.aclose()
    overwrite_root(tmp_path / "guidsvc.db", "receipts")
    with service(tmp_path, "--no-access-log") as again:
        client = Client(again.port)
        assert again.log.read_text().count("receipts cannot be read, their leases end by themselves") == 1
        assert (await client.put(path_of(GOOD), {"user": "x"})).status == 201
        assert await create("one") == 500
        assert (await client.get("/readyz")).json["status"] == "ready"
        await client.aclose()


@pytest.mark.parametrize("damaged_service", [IN_RECORDS], indirect=True)
async def test_stream_over_a_damaged_page_does_not_end_regularly(
    damaged_service: tuple[Client, Service],
) -> None:
    client, _ = damaged_service
    with pytest.raises(ConnectionError):
        await client.get("/guid", headers=NDJSON)
    reply = await client.get("/guid?user=user0300", headers=NDJSON)
    assert (reply.status, reply.json["code"]) == (500, "internal"), "nothing had been sent before the error"


@pytest.mark.parametrize("damaged_service", [IN_INDEX], indirect=True)
async def test_write_to_a_damaged_page_does_not_fail_its_group(
    damaged_service: tuple[Client, Service],
) -> None:
    client, running = damaged_service
    guids = [*GUIDS[:8], BAD, *GUIDS[-8:]]
    lines = b"".join(json.dumps({"guid": guid, "user": "new"}).encode() + b"\n" for guid in guids)
    reply = await client.post("/guid:batch", body=lines, headers={"Content-Type": "application/x-ndjson"})

    statuses = {guid: result["status"] for guid, result in zip(guids, reply.lines, strict=True)}
    assert {guid for guid, status in statuses.items() if status != 200} == {BAD}
    assert statuses[BAD] == 500
    await assert_file_is_logged(client, running, reply)
    assert (await client.get(path_of(BAD))).json["user"] == "user0300"
    assert [(await client.get(path_of(guid))).json["user"] for guid in guids if guid != BAD] == ["new"] * 16


async def _assert_corrupt_is_reported(client: Client) -> None:
    """Check that requests for BAD report a fault, and that GOOD is served."""
    for method, body in (("GET", None), ("PUT", {"user": "n"}), ("PATCH", {"user": "n"}), ("DELETE", None)):
        bad, good = [await client.ask(method, path_of(guid), json=body) for guid in (BAD, GOOD)]
        assert bad.status == 500
        assert good.status in {200, 204}
    assert (await client.put(path_of(GOOD), {"user": "n"})).status == 201
    for accept in ("application/json", "application/x-ndjson"):
        listed = await client.get("/guid?state=all", headers={"Accept": accept})
        assert (listed.status, listed.json["code"]) == (500, "internal"), "the list must not omit the record silently"
    operations = [{"op": "get", "guid": GOOD}, {"op": "get", "guid": BAD}, {"guid": BAD, "user": "new"}]
    results = (await client.post("/guid:batch", {"operations": operations})).json["results"]
    assert [result["status"] for result in results] == [200, 500, 500]


NOT_UTF_8 = "user = CAST(x'ff41' AS TEXT)"


@pytest.mark.parametrize("change", ["user = ''", "metadata = '{'", "version = 'x'", "owner = x'00'", NOT_UTF_8])
async def test_corrupt_row_is_reported_and_others_are_served(
    serving: Serving, tmp_path: Path, expected_logs: ExpectedLogs, change: str
) -> None:
    expected_logs.add("fault of the service")
    async with serving() as client:
        for guid in (BAD, GOOD):
            await client.put(path_of(guid), {"user": "x"})
    with closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as file:
        file.execute(f"UPDATE records SET {change} WHERE guid = ?", (BAD,))
    async with serving() as client:
        await _assert_corrupt_is_reported(client)


@pytest.mark.parametrize(
    "change",
    [{"$unset": {"user": 1}}, {"$set": {"version": "1"}}, {"$set": {"metadata": {"a": 1}}}, {"$set": {"colour": 1}}],
    ids=str,
)
async def test_corrupt_document_is_reported_and_others_are_served(
    serving: Serving, mongo_url: str, expected_logs: ExpectedLogs, change: dict[str, Any]
) -> None:
    expected_logs.add("fault of the service")
    async with serving(store_url=mongo_url) as client:
        for guid in (BAD, GOOD):
            await client.put(path_of(guid), {"user": "x"})
        with pymongo.MongoClient[dict[str, Any]](mongo_url) as mongo:
            records = mongo.get_default_database()["records"]
            assert records.update_one({"_id": BAD}, change).modified_count == 1
        await _assert_corrupt_is_reported(client)


async def test_corrupt_receipt_is_reported_and_other_keys_are_served(
    serving: Serving, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("fault of the service")

    async def create(key: str) -> int:
        return (await client.post("/guid", {"user": "x"}, headers={"Idempotency-Key": key})).status

    async with serving() as client:
        assert await create("one") == 201
        with closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as file:
            for damage_ in ("answer = 'x'", "seed = 'x'"):
                file.execute(f"UPDATE receipts SET {damage_}")
                assert await create("one") == 500
        assert await create("two") == 201


# The cache


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"user"', b'"usxr"'), (GOOD.encode(), BAD.encode()), (b"{", b"\xff"), (b'"version":', b'"version":"x')],
    ids=["another member", "another GUID", "no JSON", "another type"],
)
async def test_corrupt_cache_value_is_removed_and_the_store_is_read(
    serving: Serving, redis_url: str, expected_logs: ExpectedLogs, old: bytes, new: bytes
) -> None:
    expected_logs.add("corrupt cache entry")
    async with serving(cache_url=redis_url) as client:
        created = await client.put(path_of(GOOD), {"user": "x"})
        await client.get(path_of(GOOD))
        with redis.Redis.from_url(redis_url) as server:
            for key in server.scan_iter(f"*{GOOD}*"):
                value: bytes = server.get(key)
                assert old in value
                server.set(key, value.replace(old, new), keepttl=True)
        for _ in range(2):
            reply = await client.get(path_of(GOOD))
            assert (reply.status, reply.json) == (200, created.json)
        assert (await client.put(path_of(GOOD), {"user": "y"})).status == 200
