"""Bounds of a batch: temporary files, response bytes and time, however long its client keeps sending."""

import asyncio
import gc
import json
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from guidsvc.api.parsing import body, conditional
from guidsvc.api.resources.batch import document_batch, executor
from guidsvc.api.resources.batch.document_batch import MAX_RESULT_BYTES, READ_AT_ONCE, READ_SECONDS, DocumentBatch
from guidsvc.api.resources.batch.executor import (
    BRIEF_BYTES,
    GROUP,
    START_SECONDS,
    BatchExecutor,
    Result,
)
from guidsvc.api.resources.batch.handler import BatchHandler
from guidsvc.api.resources.batch.line_batch import WHOLE_PROBLEMS
from guidsvc.api.resources.batch.operations import ParsedOperation, read_values
from guidsvc.api.resources.batch.slots import DOCUMENTS, GROUPS, SMALL_DOCUMENTS
from guidsvc.errors import Overloaded, SpaceUsed
from guidsvc.process import file_descriptors as descriptors
from guidsvc.runtime.fairness.decoding_turns import READERS
from guidsvc.runtime.fairness.iteration_budget import IterationBudget
from guidsvc.runtime.temporary_space import MIB, Share, TemporarySpace
from guidsvc.services.guid_service import GuidService
from tests.conftest import ExpectedLogs, Serving
from tests.support.backing_servers import Service, service, service_with_file_limit, wait_until
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply, chunk, hang_up, read_reply
from tests.support.slow_readers import narrow
from tests.support.turn_counter import TurnCounter

pytestmark = pytest.mark.both_servers

BATCH = "/guid:batch"
NDJSON = {"Content-Type": "application/x-ndjson"}
LARGE = {"x": "x" * 16_000}
GET = json.dumps({"op": "get", "guid": GUID}).encode()
PUT = json.dumps({"user": USER, "metadata": LARGE}).encode()
CONTINUE = {b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 100 (Continue)\r\n"}
"""The interim response of each of the two servers."""


def head(path: str) -> bytes:
    """Return the head of a chunked line batch, whose length is unknown."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()


class EndlessClient:
    """A client that sends the same lines until a response arrives, and counts the bytes."""

    def __init__(self, port: int, path: str, line: bytes) -> None:
        self._port = port
        self._path = path
        self._part = chunk((line + b"\n") * max(1, 65_536 // (len(line) + 1)))
        self.sent_bytes = 0

    async def send_until_response(self, max_bytes: int) -> Reply | None:
        """Send at most `max_bytes`; return the response, or None if the connection was reset before it was read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
        writer.write(head(self._path))
        reply = asyncio.create_task(read_reply(reader, "POST"))
        try:
            while not reply.done() and self.sent_bytes < max_bytes:
                writer.write(self._part)
                self.sent_bytes += len(self._part)
                drain = asyncio.create_task(writer.drain())
                await asyncio.wait([reply, drain], return_when="FIRST_COMPLETED")
                drain.cancel()
                await asyncio.gather(drain, return_exceptions=True)
                if drain.done() and not drain.cancelled() and drain.exception() is not None:
                    break  # the service has responded and closed the connection
            return await asyncio.wait_for(reply, 60)
        except ConnectionResetError:
            return None
        finally:
            await hang_up(writer)


class ResourceMonitor:
    """Records the peak size of the memory and the temporary files of a process."""

    def __init__(self, process: int) -> None:
        self._process = process
        self.disk = self.memory = 0

    def sample(self) -> None:
        """Take one sample."""
        self.memory = max(self.memory, self._resident())
        self.disk = max(self.disk, sum(self._temporary_file_sizes()))

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await asyncio.to_thread(self.sample)
            await asyncio.sleep(0.01)

    def open_files(self) -> int:
        """Return the number of open temporary files."""
        return sum(1 for _ in self._temporary_file_sizes())

    def _resident(self) -> int:
        fields = Path(f"/proc/{self._process}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def _temporary_file_sizes(self) -> Iterator[int]:
        for descriptor in Path(f"/proc/{self._process}/fd").iterdir():
            try:
                if "(deleted)" in str(descriptor.readlink()):
                    yield descriptor.stat().st_size
            except FileNotFoundError:  # closed in the meantime
                continue


@pytest.fixture
def limited_service(tmp_path: Path, server: str) -> Iterator[Service]:
    """A service that limits the temporary files of a batch to 2 MiB."""
    bounds = ["--temp-bytes-per-batch", str(2 * MIB), "--temp-bytes", str(3 * MIB)]
    with service(tmp_path, "--no-access-log", "--server", server, *bounds) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "line", "problem"),
    [
        ("", b"x", (400, "invalid-request")),
        ("", GET, (413, "too-large")),
        ("?validate_only=true", PUT, (413, "too-large")),
    ],
    ids=["lines that are wrong", "large records", "only validated"],
)
async def test_endless_batch_is_ended_with_its_position(
    limited_service: Service, query: str, line: bytes, problem: tuple[int, str]
) -> None:
    client = Client(limited_service.port)
    await client.put(f"/guid/{GUID}", {"user": USER, "metadata": LARGE})
    monitor = ResourceMonitor(limited_service.process.pid)
    monitor.sample()
    memory_before = monitor.memory
    monitoring = asyncio.create_task(monitor.run())
    try:
        reply = await EndlessClient(limited_service.port, BATCH + query, line).send_until_response(300 * MIB)
    finally:
        monitoring.cancel()
    assert reply is not None
    error = reply.lines[-1]
    assert (error["status"], error["problem"]["code"]) == problem
    assert error["problem"]["line"] == len(reply.lines)
    assert "another batch" in json.dumps(error["problem"])
    assert len(reply.body) <= 2 * MIB + 1024
    assert monitor.disk <= 4.5 * MIB  # two files may exist for a moment
    assert monitor.memory - memory_before < 64 * MIB
    assert (await client.get("/livez")).status == 200
    await client.aclose()


async def test_dry_run_opens_no_database_before_its_first_write(limited_service: Service) -> None:
    """A database takes some 100 KiB of memory, and any client can send the head of a request."""
    waiting_head = head(f"{BATCH}?validate_only=true").replace(b"Host", b"Expect: 100-continue\r\nHost", 1)
    monitor = ResourceMonitor(limited_service.process.pid)
    monitor.sample()
    memory_before = monitor.memory
    writers = []
    for _ in range(400):
        reader, writer = await asyncio.open_connection("127.0.0.1", limited_service.port)
        writers.append(writer)
        writer.write(waiting_head)
        assert await asyncio.wait_for(reader.readline(), 30) in CONTINUE
    monitor.sample()
    for writer in writers:
        await hang_up(writer)
    assert monitor.memory - memory_before < 400 * 64 * 1024


async def test_lines_before_the_end_of_a_batch_are_executed(serving: Serving) -> None:
    lines = [{"guid": f"{number:032X}", "user": USER, "metadata": LARGE} for number in range(500)]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    async with serving(temp_bytes_per_batch=MIB) as client:
        reply = await client.post(BATCH, body=body, headers=NDJSON)
        *results, error = reply.lines
        assert error["problem"]["code"] == "too-large"
        assert {result["status"] for result in results} == {201}
        assert error["problem"]["line"] == len(results) + 1
        assert "record" in results[0]
        assert "record" not in results[-1], "without space left, the result of a put omits its record"
        page = await client.get("/guid?limit=1", headers={"Prefer": "return=total-count"})
        assert page.json["total"] == len(results) < len(lines)


async def test_response_must_be_read_within_the_batch_timeout(serving: Serving) -> None:
    """A client that reads at a rate far above the minimum would otherwise hold temporary space for long."""
    async with serving(batch_timeout=1, temp_bytes=3 * MIB, temp_bytes_per_batch=3 * MIB) as client:
        await client.put(f"/guid/{GUID}", {"user": USER, "metadata": LARGE})
        lines = (GET + b"\n") * GROUP
        async with narrow(client.port) as (reader, writer):
            writer.write(head(BATCH) + chunk(lines) + b"0\r\n\r\n")
            received = await reader.read(1024)
            assert b" 200 " in received
            with suppress(ConnectionResetError):
                while part := await asyncio.wait_for(reader.read(1024), 30):
                    received = received[-100:] + part
                    await asyncio.sleep(0.02)  # 50 KB/s: the complete response would take 40 s
            assert not received.endswith(b"0\r\n\r\n")
        reply = await client.post(BATCH, body=lines, headers=NDJSON)
        assert all("record" in result for result in reply.lines), "the space has been freed"


async def test_failed_lines_after_a_hundred_get_brief_results(client: Client) -> None:
    reply = await client.post(BATCH, body=b"x\n" * 150 + b'{"user": "a"}\n', headers=NDJSON)
    *failed, created = reply.lines
    assert [result["problem"]["line"] for result in failed[:WHOLE_PROBLEMS]] == list(range(1, WHOLE_PROBLEMS + 1))
    assert failed[WHOLE_PROBLEMS:] == [{"status": 400, "line": number} for number in range(WHOLE_PROBLEMS + 1, 151)]
    assert (created["status"], "record" in created) == (201, True)


@pytest.mark.slow
async def test_line_batch_has_a_total_time_limit(serving: Serving) -> None:
    async with serving(batch_timeout=2) as client:  # far longer than 128 lines take
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head(BATCH) + chunk(b'{"user": "a"}\n' * 128 + b'{"user": "never done"}\n'))
        reply = await asyncio.wait_for(read_reply(reader, "POST"), 30)
        await hang_up(writer)
        *results, error = reply.lines
        assert [result["status"] for result in results] == [201] * 128
        assert (error["status"], error["problem"]["code"], error["problem"]["line"]) == (503, "unavailable", 129)
        assert (await client.get("/guid?user=never%20done")).json["items"] == []


@pytest.mark.slow
async def test_client_sending_past_the_time_limit_gets_a_reply(serving: Serving) -> None:
    async with serving(batch_timeout=0.5) as client:
        start = time.monotonic()
        reply = await EndlessClient(client.port, BATCH, b'{"user": "a"}').send_until_response(1 << 40)
        assert reply is not None
        assert reply.lines[-1]["problem"]["code"] == "unavailable"
        assert time.monotonic() - start < 30


async def test_line_batch_with_invalid_query_is_not_read_forever(serving: Serving) -> None:
    """The error is sent after a bounded number of bytes, although the client keeps sending."""
    async with serving() as client:
        endless_client = EndlessClient(client.port, f"{BATCH}?validate_only=perhaps", b"x")
        reply = await endless_client.send_until_response(200 * MIB)
        assert reply is None or reply.status in {400, 413}
        assert endless_client.sent_bytes < 100 * MIB


# The response to a document


async def test_document_results_have_a_size_limit(client: Client) -> None:
    """Every operation has a result: a get without space left gets a problem, a put omits its record."""
    await client.put(f"/guid/{GUID}", {"user": USER, "metadata": LARGE})
    gets: list[dict[str, Any]] = [{"op": "get", "guid": GUID}] * 300
    puts: list[dict[str, Any]] = [{"guid": f"{number:032X}", "user": USER, "metadata": LARGE} for number in range(150)]
    conflicts = [{"guid": GUID, "user": "b", "if_none_match": "*"}] * 150
    reply = await client.post(BATCH, {"operations": [*gets, *puts, *conflicts]})
    assert len(reply.body) <= MAX_RESULT_BYTES + 32
    results = reply.json["results"]
    with_record = [result for result in results[:300] if result["status"] == 200]
    assert len([result["record"] for result in with_record]) > 150
    without_record = [result["problem"] for result in results[:300] if result["status"] != 200]
    assert {problem["code"] for problem in without_record} == {"too-large"}
    assert "separate request" in without_record[-1]["detail"]
    assert {result["status"] for result in results[300:450]} == {201}
    assert sum("record" in result for result in results[300:450]) < 20
    assert {result["status"] for result in results[450:]} == {412}
    assert sum("record" in result["problem"] for result in results[450:]) < 20
    assert (await client.get(f"/guid/{149:032X}")).json["metadata"] == LARGE


async def test_small_results_leave_room_for_later_records(client: Client) -> None:
    operations = [{"op": "get", "guid": "E" * 32}] * 999 + [{"user": USER, "metadata": LARGE}]
    results = (await client.post(BATCH, {"operations": operations})).json["results"]
    assert results[-1]["record"]["metadata"] == LARGE


# The temporary space


def test_space_is_bounded_per_request_and_in_total() -> None:
    space = TemporarySpace(request_bytes=10, total_bytes=15)
    with space.share() as first:
        first.take(6)
        with pytest.raises(SpaceUsed):
            first.take(5)
        first.take(4)
        with space.share() as second:
            second.take(5)
            with pytest.raises(Overloaded):
                second.take(1)
            first.give_back(2)
            second.take(2)
    with pytest.raises(SpaceUsed):
        first.take(1)  # the share is closed
    with ExitStack() as stack:
        stack.enter_context(space.share()).take(10)
        stack.enter_context(space.share()).take(5)


async def test_all_batches_together_have_a_bound(serving: Serving) -> None:
    """A batch without space left is ended; the space of batches that have ended is free again."""
    puts = b'{"user": "a"}\n' * 256  # two groups: the large results leave space for only one of them
    async with serving(temp_bytes=MIB, temp_bytes_per_batch=MIB) as client:
        await client.put(f"/guid/{GUID}", {"user": USER, "metadata": LARGE})
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1 << 26)
        writer.write(head(BATCH))
        async with asyncio.timeout(20):
            while b'"status":503' not in (await client.post(BATCH, body=puts, headers=NDJSON)).body:
                writer.write(chunk((GET + b"\n") * 128))
        writer.write(b"0\r\n\r\n")
        assert (await asyncio.wait_for(read_reply(reader, "POST"), 30)).status == 200
        await hang_up(writer)
        reply = await client.post(BATCH, body=puts, headers=NDJSON)
        assert [result["status"] for result in reply.lines] == [201] * 256


@pytest.mark.slow
async def test_result_files_have_a_descriptor_bound(tmp_path: Path, server: str) -> None:
    """Beyond it, batches get brief results from memory; files of batches that have ended are available again."""
    limit, lines = 120, (GET + b"\n") * GROUP
    max_files = limit // descriptors.RESERVED_PART // 2 // 2  # one caller may use half of the files
    with (
        service_with_file_limit(tmp_path, limit, limit, "--no-access-log", "--server", server) as running,
        ExitStack() as stack,
    ):
        client, monitor = Client(running.port), ResourceMonitor(running.process.pid)
        await client.put(f"/guid/{GUID}", {"user": USER, "metadata": LARGE})
        streams = [
            await asyncio.open_connection("127.0.0.1", running.port, limit=1 << 26) for _ in range(max_files + 5)
        ]
        for _, writer in streams:
            writer.write(head(BATCH) + chunk(lines))
            stack.callback(writer.close)
        async with asyncio.timeout(40):
            while monitor.open_files() < max_files:
                await asyncio.sleep(0.05)
            while (reply := await client.post(BATCH, body=lines, headers=NDJSON)).status == 503:
                pass  # the groups of the streams still use the places of the client
        assert [result["status"] for result in reply.lines] == [413] * GROUP
        assert monitor.open_files() == max_files
        for _, writer in streams:
            writer.write(b"0\r\n\r\n")
        replies = [await asyncio.wait_for(read_reply(reader, "POST"), 40) for reader, _ in streams]
        assert [len(reply.lines) for reply in replies] == [GROUP] * len(streams)
        assert sum("record" in reply.lines[0] for reply in replies) == max_files
        reply = await client.post(BATCH, body=lines, headers=NDJSON)
        assert all("record" in result for result in reply.lines)
        await client.aclose()


async def test_batch_without_file_ends_when_results_fill_memory(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "temporary_files", lambda: 1)
    memory_bytes, lines = 2 * GROUP * BRIEF_BYTES, (GET + b"\n") * GROUP
    monkeypatch.setattr("guidsvc.api.resources.batch.line_batch.MEMORY_BYTES", memory_bytes)
    has_taken, take_file = asyncio.Event(), Share.take_file

    def recorded_take_file(share: Share) -> None:
        take_file(share)
        has_taken.set()

    monkeypatch.setattr(Share, "take_file", recorded_take_file)
    async with serving() as client:
        await client.put(f"/guid/{GUID}", {"user": USER, "metadata": LARGE})
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1 << 26)
        writer.write(head(BATCH) + chunk(lines))
        await asyncio.wait_for(has_taken.wait(), 40)
        reply = await client.post(BATCH, body=lines * 20, headers=NDJSON)
        *results, error = reply.lines
        assert (reply.status, error["status"], error["problem"]["line"]) == (200, 503, len(results) + 1)
        assert [result["status"] for result in results] == [413] * len(results)
        assert memory_bytes // 2 < len(reply.body) < memory_bytes + 1024
        writer.write(b"0\r\n\r\n")
        assert all("record" in line for line in (await asyncio.wait_for(read_reply(reader, "POST"), 30)).lines)
        await hang_up(writer)


async def test_dry_runs_have_a_descriptor_bound(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """Beyond it, operations get 503; files of batches that have ended are available again."""
    expected_logs.add("operation failed")
    monkeypatch.setattr(descriptors, "temporary_files", lambda: 1)
    path, headers = f"{BATCH}?validate_only=true", NDJSON | {"Prefer": "return=minimal"}
    minimal_head = head(path).replace(b"\r\n\r\n", b"\r\nPrefer: return=minimal\r\n\r\n")

    async def statuses() -> set[int]:
        return {result["status"] for result in (await client.post(path, body=lines, headers=headers)).lines}

    lines = (PUT + b"\n") * GROUP
    async with serving() as client:
        assert await statuses() == {201}
        monitor = ResourceMonitor(os.getpid())
        files_before = monitor.open_files()
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(minimal_head + chunk(lines))
        async with asyncio.timeout(40):
            while monitor.open_files() == files_before:  # another batch must not get the file first
                await asyncio.sleep(0.05)
        assert await statuses() == {201, 503}
        writer.write(b"0\r\n\r\n")
        assert (await asyncio.wait_for(read_reply(reader, "POST"), 30)).status == 200
        await hang_up(writer)
        assert await statuses() == {201}


async def test_lines_waiting_for_their_group_are_counted(serving: Serving) -> None:
    """They are in memory: all batches together may use a quarter of the space, one caller half of that."""
    lines = (json.dumps({"user": USER, "metadata": {"x": "x" * 8000}}).encode() + b"\n") * 14
    async with serving(temp_bytes=MIB, temp_bytes_per_batch=MIB) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head(BATCH) + chunk(lines))
        async with asyncio.timeout(20):
            while (await client.post(BATCH, body=lines, headers=NDJSON)).status != 503:
                await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")
        assert (await asyncio.wait_for(read_reply(reader, "POST"), 30)).status == 200
        await hang_up(writer)
        assert (await client.post(BATCH, body=lines, headers=NDJSON)).status == 200


async def test_batches_leave_slots_to_other_requests(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """A hundred batches stay in progress while another client creates and lists records."""
    expected_logs.add("overload")  # most of the batches time out in the queue
    go, perform, started = asyncio.Event(), BatchExecutor.perform, 0

    async def blocked_perform(executor: BatchExecutor, operations: Any, draws: Any = None) -> list[Result]:
        nonlocal started
        started += 1
        await go.wait()
        return await perform(executor, operations, draws)

    monkeypatch.setattr(BatchExecutor, "perform", blocked_perform)
    document = json.dumps({"operations": [{"guid": GUID, "user": f"user {n}"} for n in range(128)]}).encode()
    json_type = {"Content-Type": "application/json"}
    async with serving(max_in_progress=GROUPS + 8, queue_timeout=10) as client:
        other_client = Client(client.port)
        batches = [asyncio.create_task(client.post(BATCH, body=document, headers=json_type)) for _ in range(100)]
        while not started:
            await asyncio.sleep(0.01)
        statuses = {(await other_client.post("/guid", {"user": USER})).status for _ in range(20)}
        statuses |= {(await other_client.get("/guid")).status for _ in range(20)}
        go.set()
        replies = await asyncio.gather(*batches)
        await other_client.aclose()
    assert statuses == {200, 201}
    assert {reply.status for reply in replies} <= {200, 503}


async def test_one_owner_runs_two_large_documents_at_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded documents take many times their size; small documents do not wait for large ones."""
    started = finished = max_running = 0
    go, perform = asyncio.Event(), DocumentBatch.perform

    async def blocked_perform(batch: DocumentBatch, draws: Any) -> Any:
        nonlocal started, finished, max_running
        if len(batch._values) > 1:
            started += 1
            max_running = max(max_running, started - finished)
            await go.wait()
            finished += 1
        return await perform(batch, draws)

    monkeypatch.setattr(DocumentBatch, "perform", blocked_perform)
    large = {"operations": [{"op": "get", "guid": GUID, "if_match": f'"{"x" * 1_000}"'}] * 100}
    tasks = [asyncio.create_task(client.ask("POST", BATCH, json=large)) for _ in range(8)]
    while started < 2:
        await asyncio.sleep(0.01)
    for _ in range(20):
        assert (await client.ask("POST", BATCH, json={"operations": [{"user": "a"}]})).status == 200
    go.set()
    assert [(await task).status for task in tasks] == [200] * 8
    assert (started, finished, max_running) == (8, 8, 2)


async def test_few_documents_are_decoded_per_loop_turn(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, because all other requests wait for the end of a turn."""
    counter = TurnCounter()
    monkeypatch.setattr(body, "decode", counter.counted(body.decode))
    document = {"operations": [{"op": "get", "guid": GUID, "if_match": f'"{"x" * 1_000}"'}] * 50}
    async with counter.following_turns():
        replies = await asyncio.gather(*(client.ask("POST", BATCH, json=document) for _ in range(48)))
    assert {reply.status for reply in replies} == {200}
    assert 1 <= counter.most <= READERS


@pytest.mark.parametrize(("cost_ms", "most_per_turn"), [(1.0, READ_AT_ONCE), (0.01, 1000 * READ_SECONDS / 0.01)])
async def test_few_costly_operations_are_validated_per_loop_turn(
    client: Client, monkeypatch: pytest.MonkeyPatch, cost_ms: float, most_per_turn: float
) -> None:
    """Those that validation takes a millisecond for; but many of those that it takes little time for."""
    counter, now = TurnCounter(), 0.0

    def read_slowly(values: Sequence[object]) -> list[ParsedOperation]:
        nonlocal now
        now += len(values) * cost_ms / 1000
        return read_values(values)

    monkeypatch.setattr(document_batch, "perf_counter", lambda: now, raising=False)
    monkeypatch.setattr(document_batch, "read_values", counter.counted(read_slowly, len))
    document = {"operations": [{"op": "get", "guid": GUID}] * GROUP}
    async with counter.following_turns():
        replies = await asyncio.gather(*(client.ask("POST", BATCH, json=document) for _ in range(4)))
    assert {reply.status for reply in replies} == {200}
    assert READ_AT_ONCE <= counter.most <= 4 * most_per_turn


@pytest.mark.parametrize(
    ("operation", "status", "owner", "name"),
    [
        pytest.param({"op": "get"}, 404, GuidService, "get", id="start"),
        pytest.param({"user": "a", "if_match": '"1"'}, 412, conditional, "of_operation", id="preconditions"),
        pytest.param({"user": "a", "if_match": '"1"'}, 412, BatchExecutor, "_failure", id="failure"),
    ],
)
async def test_few_operations_that_take_long_run_per_loop_turn(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    operation: Mapping[str, str],
    status: int,
    owner: object,
    name: str,
) -> None:
    """Each reads its preconditions, or its record as it starts, or renders its error: others wait for the turn."""
    counter, now, method = TurnCounter(), 0.0, getattr(owner, name)

    def run_slowly(*arguments: Any) -> Any:
        nonlocal now
        now += START_SECONDS / 4
        return method(*arguments)

    monkeypatch.setattr(executor, "IterationBudget", lambda seconds: IterationBudget(seconds, lambda: now))
    monkeypatch.setattr(owner, name, counter.counted(run_slowly))
    document = {"operations": [{**operation, "guid": f"{number:032X}"} for number in range(GROUP)]}
    async with counter.following_turns():
        reply = await client.ask("POST", BATCH, json=document)
    assert [result["status"] for result in reply.json["results"]] == [status] * GROUP
    assert 4 <= counter.most <= 5, "the sum of the fractions is not exact"


@pytest.mark.parametrize("padding", ["", "x" * 70_000], ids=["small", "large"])
async def test_documents_of_others_run_while_two_callers_fill_theirs(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, padding: str
) -> None:
    started, go, perform = 0, asyncio.Event(), DocumentBatch.perform

    async def blocked_perform(batch: DocumentBatch, draws: Any) -> Any:
        nonlocal started
        if batch._values[0]["user"] == "long":
            started += 1
            await go.wait()
        return await perform(batch, draws)

    def headers_from(address: str) -> dict[str, str]:
        return {"X-Forwarded-For": address, "Content-Type": "application/json"}

    def document(user: str) -> dict[str, Any]:
        parts = [padding[:60_000], padding[60_000:]]
        return {"operations": [{"user": user}, *({"op": "get", "guid": GUID, "if_match": f'"{p}"'} for p in parts)]}

    monkeypatch.setattr(DocumentBatch, "perform", blocked_perform)
    async with serving(trusted_proxies="127.0.0.1", queue_timeout=60, request_timeout=60) as client:
        other_client = Client(client.port)
        blocked: list[asyncio.Task[Reply]] = []
        slots = DOCUMENTS if padding else SMALL_DOCUMENTS
        for address, share in (("192.0.2.1", slots // 2), ("192.0.2.2", slots // 4)):
            started_before = started
            requests = [
                client.ask("POST", BATCH, json=document("long"), headers=headers_from(address)) for _ in range(32)
            ]
            blocked += map(asyncio.create_task, requests)
            async with asyncio.timeout(40):
                while started < started_before + share:
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(40):
            for _ in range(20):
                assert (await other_client.post(BATCH, document(USER), headers=headers_from("192.0.2.3"))).status == 200
        go.set()
        assert {(await task).status for task in blocked} == {200}
        await other_client.aclose()


@pytest.mark.parametrize(
    ("padding", "max_running", "settings"),
    [("", SMALL_DOCUMENTS // 2, {"queue_timeout": 0.5}), ("x" * 70_000, DOCUMENTS // 2, {"request_timeout": 0.5})],
    ids=["small", "large"],
)
async def test_document_waits_for_its_slot_with_a_time_limit(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, padding: str, max_running: int, settings: dict[str, float]
) -> None:
    """Each collects up to 4 MiB of results, so only as many run as there are slots; the others are rejected."""
    started, go, perform = 0, asyncio.Event(), DocumentBatch.perform

    async def blocked_perform(batch: DocumentBatch, draws: Any) -> Any:
        nonlocal started
        started += 1
        await go.wait()
        return await perform(batch, draws)

    monkeypatch.setattr(DocumentBatch, "perform", blocked_perform)
    document = {"operations": [{"user": USER}, {"op": "get", "guid": GUID, "if_match": f'"{padding[:60_000]}"'}]}
    document["operations"] += [{"op": "get", "guid": GUID, "if_match": f'"{padding[60_000:]}"'}]
    async with serving(**settings) as client:
        tasks = [asyncio.create_task(client.ask("POST", BATCH, json=document)) for _ in range(max_running + 5)]
        async with asyncio.timeout(40):
            rejected, waiting = set[asyncio.Task[Reply]](), set(tasks)
            while len(rejected) < 5:
                finished, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
                rejected |= finished
        assert [task.result().status for task in rejected] == [503] * 5
        assert all("Retry-After" in task.result().headers for task in rejected)
        assert started == max_running
        go.set()
        assert {(await task).status for task in waiting} == {200}
        page = await client.get("/guid", headers={"Prefer": "return=total-count"})
        assert page.json["total"] == max_running


async def test_body_of_an_answered_request_is_discarded(client: Client) -> None:
    """Even while its handler is still referenced: the garbage collector counts objects, not their size."""
    gc.disable()
    try:
        for _ in range(3):
            reply = await client.ask("POST", BATCH, json={"operations": [], "x": "x" * 60_000})
            assert reply.status == 400
        handlers = [candidate for candidate in gc.get_objects() if type(candidate) is BatchHandler]
        assert sum(len(handler._received) for handler in handlers) == 0
    finally:
        gc.enable()


BYTES_OF_FILE = 3 * MIB
"""File size limit of the service process, which acts like a full disk."""


@pytest.fixture
def with_small_files(tmp_path: Path, server: str) -> Iterator[Service]:
    with service(tmp_path, "--no-access-log", "--log-format", "json", "--server", server) as running:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (BYTES_OF_FILE, BYTES_OF_FILE))
        yield running


async def wait_for_log(running: Service, text: str) -> int:
    """Wait until the log contains a text, which another thread writes; return how often it does."""
    await asyncio.to_thread(wait_until, lambda: text in running.log.read_text(), text, running.log)
    return running.log.read_text().count(text)


@pytest.mark.parametrize("body", [(GET + b"\n") * 3 * GROUP, b"\n".join([GET] * 2 * GROUP)], ids=["more", "no more"])
async def test_full_disk_ends_line_batch_and_reports_every_result(with_small_files: Service, body: bytes) -> None:
    client = Client(with_small_files.port)
    await client.put(f"/guid/{GUID}", {"user": USER, "metadata": LARGE})
    reply = await client.post(BATCH, body=body, headers=NDJSON)
    *results, error = reply.lines
    assert (error["status"], error["problem"]["code"], error["problem"]["line"]) == (
        503,
        "unavailable",
        len(results) + 1,
    )
    assert len(results) == 2 * GROUP
    assert [result["status"] for result in results] == [200] * GROUP + [413] * GROUP
    await client.aclose()
    assert await wait_for_log(with_small_files, "temporary file cannot be written") == 1


async def test_full_disk_fails_dry_run_and_is_logged_once(with_small_files: Service) -> None:
    client = Client(with_small_files.port)
    headers = NDJSON | {"Prefer": "return=minimal"}  # the results need no file
    reply = await client.post(f"{BATCH}?validate_only=true", body=(PUT + b"\n") * 4 * GROUP, headers=headers)
    statuses = [result["status"] for result in reply.lines]
    first_failed = statuses.index(503)
    assert statuses == [201] * first_failed + [503] * (4 * GROUP - first_failed)
    assert (await client.post(f"{BATCH}?validate_only=true", {"operations": [{"user": USER}]})).status == 200
    await client.aclose()
    assert await wait_for_log(with_small_files, "operation failed") == 1
    assert "malformed" not in with_small_files.log.read_text()
