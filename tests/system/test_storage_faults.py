"""A disk that is full or takes no writes, a page, a row, a cached value or a document that is damaged.

The fault is told, with its request id in the log; nothing that was acknowledged is lost; what is not touched by it is
served; and when it is over writes go on, without a restart.
"""

import asyncio
import json
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from tests.conftest import ExpectedLogs, Serving
from tests.support.backing_servers import ROOT, Service, service, wait_until
from tests.support.faulty_disk import set_disk
from tests.support.http_client import Client, Reply
from tests.support.readiness import until_ready
from tests.support.stored_records import GUIDS, damage, fill_store, metadata

FAULTY = ROOT / "tests" / "support" / "faulty_disk.py"
NDJSON = {"Accept": "application/x-ndjson"}
BAD, GOOD = GUIDS[300], GUIDS[0]
"""BAD is beyond what a stream reads at first."""


def path(guid: str) -> str:
    """Return where a GUID is served."""
    return f"/guid/{guid}"


# The disk


class Full:
    """A disk that is full: ENOSPC for what makes a file larger."""

    state = "full"

    def __init__(self, running: Service, folder: Path) -> None:
        self._folder = folder

    def fail(self) -> None:
        """Begin to fail."""
        set_disk(self._folder, self.state)

    def heal(self) -> None:
        """Be well again."""
        set_disk(self._folder, "")


class ReadOnly(Full):
    """A file system that has become read-only: EROFS for every write."""

    state = "read-only"


class Limited:
    """A file that has reached the size that the process may write: the kernel's own refusal, EFBIG."""

    def __init__(self, running: Service, folder: Path) -> None:
        self._pid = running.process.pid
        self._log = folder / "guidsvc.db-wal"
        self._before = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)

    def fail(self) -> None:
        """Begin to fail."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (self._log.stat().st_size, self._before[1]))

    def heal(self) -> None:
        """Be well again."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._before)


class Writers:
    """Writers, each of its own GUIDs, who note what was acknowledged and what was surely not done."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acknowledged: dict[str, str] = {}
        self.refused: set[tuple[str, str]] = set()
        self.unknown = 0
        self.over = False
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def write(self, writer: int) -> None:
        """Write until it is over."""
        number = 0
        while not self.over:
            await self.may_write.wait()
            number += 1
            guid, user = f"{0xF:016X}{16 * (number // 3) + writer:016X}", f"{writer} {number}"
            reply = await self._client.put(path(guid), {"user": user, "metadata": metadata(number)})
            assert reply.status in {200, 201, 503, 504}, reply
            if reply.status == 503:
                assert reply.headers["Retry-After"]
                self.refused.add((guid, user))
            elif reply.status == 504:
                self.unknown += 1
                self.acknowledged.pop(guid, None)
            else:
                self.acknowledged[guid] = user

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let them write until this holds."""
        while not condition():
            await asyncio.sleep(0)


@contextmanager
def on_faulty_disk(folder: Path) -> Iterator[Service]:
    """Run a service, inside, on a disk that can fail."""
    with service(folder, "--no-access-log", program=FAULTY) as running:
        yield running


async def told(client: Client, running: Service, reply: Reply) -> None:
    """See that the log tells, under the request id, what was wrong with which file."""
    request_id = reply.headers["X-Request-Id"]

    def is_logged() -> bool:
        lines = [line for line in running.log.read_text().splitlines() if request_id in line]
        return any("guidsvc.db" in line for line in lines)

    await asyncio.to_thread(wait_until, is_logged, f"the file, for {request_id}", running.log)


@pytest.mark.parametrize("kind", [Full, ReadOnly, Limited])
async def test_unwritable_disk_rejects_writes_and_loses_nothing(
    tmp_path: Path, kind: type[Full] | type[Limited]
) -> None:
    with on_faulty_disk(tmp_path) as running:
        client, disk = Client(running.port), kind(running, tmp_path)
        await fill_store(client)
        writers = Writers(client)
        tasks = [asyncio.create_task(writers.write(number)) for number in range(8)]
        await writers.until(lambda: len(writers.acknowledged) > 40)
        disk.fail()
        await writers.until(lambda: len(writers.refused) > 40)
        unknown = writers.unknown

        writers.may_write.clear()  # or their refusals would use up the lines that the log has for such an event
        for method, body in (("PUT", {"user": "new"}), ("PATCH", {"user": "new"}), ("DELETE", None)):
            reply = await client.ask(method, path(BAD), json=body)
            assert (reply.status, reply.json["code"]) == (503, "unavailable")
            await told(client, running, reply)
        writers.may_write.set()
        assert (await client.post("/guid", {"user": "new"})).status == 503
        assert (await client.get(path(BAD))).json["user"] == "user0300"
        assert (await client.get("/guid?limit=5")).status == 200
        assert len((await client.get("/guid", headers=NDJSON)).lines) >= len(GUIDS)
        operations = [{"guid": BAD, "user": "new"}, {"op": "get", "guid": BAD}]
        results = (await client.post("/guid:batch", {"operations": operations})).json["results"]
        assert [result["status"] for result in results] == [503, 200]
        ready = await until_ready(client, store="read-only")
        assert (ready.status, ready.json["status"], ready.json["cache"]) == (200, "degraded", "up")
        assert writers.unknown == unknown, "only of what was under way when it began the outcome is unknown"

        disk.heal()
        before = len(writers.acknowledged)
        await writers.until(lambda: len(writers.acknowledged) > before + 40)
        await until_ready(client, status="ready")
        writers.over = True
        await asyncio.gather(*tasks)
        running.kill()
        await client.aclose()
    if kind is Full:
        assert writers.unknown == 0
    await _all_there(tmp_path, writers)


async def _all_there(folder: Path, writers: Writers) -> None:
    """Start again, and see that all is there that was acknowledged, and nothing that was refused."""
    with service(folder, "--no-access-log") as again:
        client = Client(again.port)
        found = {record["guid"]: record["user"] for record in (await client.get("/guid", headers=NDJSON)).lines}
        await client.aclose()
    assert found.items() >= writers.acknowledged.items()
    assert not writers.refused & found.items()
    with closing(sqlite3.connect(folder / "guidsvc.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_keyed_request_is_executed_once_after_a_full_disk(tmp_path: Path) -> None:
    async def create() -> Reply:
        return await client.post("/guid", {"user": "once"}, headers={"Idempotency-Key": "key"})

    with on_faulty_disk(tmp_path) as running:
        client, disk = Client(running.port), Full(running, tmp_path)
        disk.fail()
        assert (await create()).status == 503
        disk.heal()
        first, second = await create(), await create()
        listed = (await client.get("/guid", headers=NDJSON)).lines
        await client.aclose()

    assert (first.status, second.status) == (201, 201)
    assert first.body == second.body
    assert [record["user"] for record in listed] == ["once"]


async def test_unwritable_log_does_not_prevent_responses(tmp_path: Path) -> None:
    with service(tmp_path, program=_to_full(tmp_path)) as running:
        client = Client(running.port)
        for _ in range(3):
            assert (await client.put(path(GOOD), {"user": "x"})).status in {200, 201}
            assert (await client.get(path(BAD))).status == 404
        await client.aclose()


def _to_full(folder: Path) -> Path:
    """Return a program that is the service, with a log on a disk that is full."""
    program = folder / "to_full.py"
    program.write_text(
        f"import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 2)\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from guidsvc.cli.main import main\nmain()\n"
    )
    return program


# Pages and rows


@pytest.fixture
async def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Client, Service]]:
    """A service whose file has a damaged page: the one of the records, or that of the index, which BAD is in."""
    with service(tmp_path) as first:
        client = Client(first.port)
        await fill_store(client)
        await client.aclose()
    damage(tmp_path, *request.param)
    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        yield client, running
        await client.aclose()


IN_RECORDS = (b"mark0300",)
IN_INDEX = (b"user0300" + BAD.encode(), b"mark")


@pytest.mark.parametrize("damaged", [IN_RECORDS], indirect=True)
async def test_damaged_page_is_reported_and_other_pages_are_served(damaged: tuple[Client, Service]) -> None:
    client, running = damaged
    for method, body in (("GET", None), ("HEAD", None), ("PUT", {"user": "new"}), ("PATCH", {"user": "new"})):
        reply = await client.ask(method, path(BAD), json=body)
        assert reply.status == 500
        await told(client, running, reply)
    assert (await client.delete(path(BAD))).status == 500

    for guid in (GUIDS[0], GUIDS[-1]):
        assert (await client.get(path(guid))).status == 200
        assert (await client.put(path(guid), {"user": "new"})).status == 200
    assert (await client.get("/guid?limit=100")).status == 200
    assert (await client.get("/guid?limit=400")).status == 500
    operations = [{"op": "get", "guid": guid} for guid in (GOOD, BAD)]
    results = (await client.post("/guid:batch", {"operations": operations})).json["results"]
    assert [result["status"] for result in results] == [200, 500]
    assert (await client.get("/readyz")).json["status"] == "ready"


@pytest.mark.parametrize("damaged", [IN_RECORDS], indirect=True)
async def test_stream_over_a_damaged_page_does_not_end_regularly(
    damaged: tuple[Client, Service],
) -> None:
    client, _ = damaged
    with pytest.raises(ConnectionError):
        await client.get("/guid", headers=NDJSON)
    reply = await client.get("/guid?user=user0300", headers=NDJSON)
    assert (reply.status, reply.json["code"]) == (500, "internal"), "where nothing has been sent yet"


@pytest.mark.parametrize("damaged", [IN_INDEX], indirect=True)
async def test_write_to_a_damaged_page_does_not_fail_its_group(
    damaged: tuple[Client, Service],
) -> None:
    client, running = damaged
    guids = [*GUIDS[:8], BAD, *GUIDS[-8:]]
    lines = b"".join(json.dumps({"guid": guid, "user": "new"}).encode() + b"\n" for guid in guids)
    reply = await client.post("/guid:batch", body=lines, headers={"Content-Type": "application/x-ndjson"})

    statuses = {guid: result["status"] for guid, result in zip(guids, reply.lines, strict=True)}
    assert {guid for guid, status in statuses.items() if status != 200} == {BAD}
    assert statuses[BAD] == 500
    await told(client, running, reply)
    assert (await client.get(path(BAD))).json["user"] == "user0300"
    assert [(await client.get(path(guid))).json["user"] for guid in guids if guid != BAD] == ["new"] * 16


async def _refused_as_corrupt(client: Client) -> None:
    """See that BAD is told of as a fault, whatever is asked of it, and GOOD is served."""
    for method, body in (("GET", None), ("PUT", {"user": "n"}), ("PATCH", {"user": "n"}), ("DELETE", None)):
        bad, good = [await client.ask(method, path(guid), json=body) for guid in (BAD, GOOD)]
        assert bad.status == 500
        assert good.status in {200, 204}
    assert (await client.put(path(GOOD), {"user": "n"})).status == 201
    for accept in ("application/json", "application/x-ndjson"):
        listed = await client.get("/guid?state=all", headers={"Accept": accept})
        assert (listed.status, listed.json["code"]) == (500, "internal"), "and not one fewer, without a word"
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
            await client.put(path(guid), {"user": "x"})
    with closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as file:
        file.execute(f"UPDATE records SET {change} WHERE guid = ?", (BAD,))
    async with serving() as client:
        await _refused_as_corrupt(client)


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
            await client.put(path(guid), {"user": "x"})
        with pymongo.MongoClient[dict[str, Any]](mongo_url) as mongo:
            records = mongo.get_default_database()["records"]
            assert records.update_one({"_id": BAD}, change).modified_count == 1
        await _refused_as_corrupt(client)


async def test_corrupt_receipt_is_reported_and_other_keys_are_served(
    serving: Serving, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("fault of the service")

    async def create(key: str) -> int:
        return (await client.post("/guid", {"user": "x"}, headers={"Idempotency-Key": key})).status

    async with serving() as client:
        assert await create("one") == 201
        with closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as file:
            for damaged in ("answer = 'x'", "seed = 'x'"):
                file.execute(f"UPDATE receipts SET {damaged}")
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
        first = await client.put(path(GOOD), {"user": "x"})
        await client.get(path(GOOD))
        with redis.Redis.from_url(redis_url) as server:
            for key in server.scan_iter(f"*{GOOD}*"):
                value: bytes = server.get(key)
                assert old in value
                server.set(key, value.replace(old, new), keepttl=True)
        for _ in range(2):
            reply = await client.get(path(GOOD))
            assert (reply.status, reply.json) == (200, first.json)
        assert (await client.put(path(GOOD), {"user": "y"})).status == 200
