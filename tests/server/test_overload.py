"""Overload: excess requests are rejected at once or after a short wait; work without a waiting client is dropped."""

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from guidsvc.api.app import make_app
from guidsvc.api.execution.pipeline import LOGGED_PATH, RequestPipeline
from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.api.fast_path.load_shedding import LoadShedder, ShedRequest
from guidsvc.domain import guid_generator
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.errors import Overloaded
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring.logs.access_log import AccessLog
from guidsvc.runtime.admission import QUEUE, Admission
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.clock import system_clock
from guidsvc.server.protocol import read_throttle
from guidsvc.server.server import serving_on
from guidsvc.services.guid_service import GuidService
from guidsvc.services.statistics import RecordStatistics
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.lease import LeaseClock
from guidsvc.telemetry.metrics import RequestMetrics
from tests.conftest import ExpectedLogs, Serving
from tests.support.api_context import api_context, request_pipeline
from tests.support.fast_path import Lines, RecordingAccessLog
from tests.support.gated_store import GatedStore, run_ready_tasks
from tests.support.http_client import Client, Reply, hang_up, read_reply, reset
from tests.support.metrics import read, scrape, value

pytestmark = pytest.mark.both_servers

SLOTS = 2
GUIDS = [f"{number:032X}" for number in range(40)]
NEW = {"user": "x"}
BATCH = "/guid:batch"


@asynccontextmanager
async def service(
    store: GatedStore | Database,
    server: str,
    proxies: tuple[str, ...] = (),
    access_log: AccessLog | None = None,
    **limits: float,
) -> AsyncIterator[tuple[Client, Admission]]:
    """Serve a store inside the block, with few slots and with these trusted proxies."""
    records = store if isinstance(store, GatedStore) else store.records
    guids = GuidService(
        records,
        LeaseClock(store.fence),
        clock=system_clock,
        generator=guid_generator.random_generator(guid_generator.guid_v4),
        policy=RetentionPolicy(lifetime=60, retention=60),
    )
    admission = Admission(SLOTS, **limits)
    context = api_context(
        service=guids,
        statistics=RecordStatistics(records, system_clock),
        admission=admission,
        access_log=access_log,
        trusted_proxies=TrustedProxies(proxies),
    )
    pipeline = RequestPipeline(context)
    app = make_app(pipeline)
    sockets = bind_sockets(0, "127.0.0.1")
    client = Client(sockets[0].getsockname()[1])
    if server == "httptools":
        dispatcher = FastPathDispatcher(pipeline)
        async with serving_on(sockets, app, ServerHooks(RequestMetrics()), fast_path=dispatcher):
            yield client, admission
            await client.aclose()
    else:
        tornado = HTTPServer(app)
        tornado.add_sockets(sockets)
        yield client, admission
        await client.aclose()
        tornado.stop()
        await tornado.close_all_connections()


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    while not condition():
        await asyncio.sleep(0.001)


def put(client: Client, number: int) -> "asyncio.Task[Reply]":
    """Create a GUID that the client chooses."""
    return asyncio.create_task(client.put(f"/guid/{GUIDS[number]}", NEW))


def post(client: Client, number: int) -> "asyncio.Task[Reply]":
    """Create a GUID that the service generates, which the fast path does not do."""
    return asyncio.create_task(client.post("/guid", NEW))


def get(client: Client, number: int) -> "asyncio.Task[Reply]":
    """Read a GUID that is not cached."""
    return asyncio.create_task(client.get(f"/guid/{GUIDS[number]}"))


def is_rejected(reply: Reply) -> bool:
    """Whether the response is a rejection with Retry-After."""
    return (reply.status, reply.headers["Retry-After"], reply.json["code"]) == (503, "1", "unavailable")


async def test_access_log_line_of_rejected_request_is_cut_too(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("overloaded, rejecting requests")
    paths: list[str] = []
    load_shedder = LoadShedder(
        request_pipeline(admission=Admission(SLOTS), access_log=RecordingAccessLog(lambda line: paths.append(line[1])))
    )
    for length in (10, LOGGED_PATH, LOGGED_PATH + 1, 60_000):
        load_shedder.reject("GET", "/guid/".ljust(length, "x"), {}, "127.0.0.1")
    assert [len(path) for path in paths] == [10, LOGGED_PATH, LOGGED_PATH, LOGGED_PATH]


async def test_rejection_before_the_connection_closes_says_so(expected_logs: ExpectedLogs) -> None:
    """At the end of the grace period, the body of a request that was to be rejected may not have arrived."""
    expected_logs.add("overloaded, rejecting requests")
    load_shedder = LoadShedder(request_pipeline(admission=Admission(SLOTS)))
    for is_last in (False, True):
        shed = ShedRequest(load_shedder, "PUT", "/guid", {}, "127.0.0.1", secure=False)
        shed.last = is_last
        assert (b"\r\nConnection: close\r\n" in await shed.respond(b"")) == is_last


@pytest.mark.parametrize("send", [put, post, get])
async def test_excess_requests_are_rejected_and_the_rest_succeeds(
    server: str, expected_logs: ExpectedLogs, send: Callable[[Client, int], "asyncio.Task[Reply]"]
) -> None:
    expected_logs.add("overloaded, rejecting requests")
    store = GatedStore()
    store.open.clear()
    async with service(store, server, seconds=2.0, budget=30) as (client, admission):
        running = [send(client, number) for number in range(SLOTS)]
        await until(lambda: admission.in_progress == SLOTS)
        waiting = [send(client, SLOTS + number) for number in range(QUEUE * SLOTS)]
        await until(lambda: admission.waiting == QUEUE * SLOTS)

        assert is_rejected(await send(client, 30)), "at once"
        assert not any(task.done() for task in [*running, *waiting])
        for path in ("/livez", "/readyz", "/version"):
            assert (await client.get(path)).status == 200

        assert all(map(is_rejected, await asyncio.gather(*waiting))), "after the time limit of the queue"
        assert admission.expired == QUEUE * SLOTS
        assert admission.refused == 1
        assert not any(task.done() for task in running)
        store.open.set()
        expected = 404 if send is get else 201
        assert [reply.status for reply in await asyncio.gather(*running)] == [expected] * SLOTS
        assert (await send(client, 31)).status == expected
        assert (admission.in_progress, admission.waiting) == (0, 0)
        samples = read((await client.get("/metrics")).body.decode())
        assert value(samples, "guidsvc_requests_refused_total", reason="full") == 1
        assert value(samples, "guidsvc_requests_refused_total", reason="waited") == QUEUE * SLOTS
        route, method = route_and_method(send)
        rejected = value(samples, "guidsvc_requests_total", route=route, method=method, status="503")
        assert rejected == 1 + QUEUE * SLOTS, "all rejections are counted"


def route_and_method(send: Callable[[Client, int], "asyncio.Task[Reply]"]) -> tuple[str, str]:
    """Return the route and the method of a request as in the metrics."""
    return ("/guid", "POST") if send is post else ("/guid/{guid}", "PUT" if send is put else "GET")


async def test_waiting_request_is_served_when_a_slot_is_free(server: str) -> None:
    store = GatedStore()
    store.open.clear()
    async with service(store, server, seconds=30, budget=30) as (client, admission):
        tasks = [put(client, number) for number in range(3 * SLOTS)]
        await until(lambda: admission.waiting == 2 * SLOTS)
        store.open.set()

        assert {reply.status for reply in await asyncio.gather(*tasks)} == {201}
        assert (admission.in_progress, admission.waiting, admission.refused) == (0, 0, 0)


async def test_rejected_client_that_retries_early_waits_its_time(
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs.add("overloaded, rejecting requests")
    store = GatedStore()
    store.open.clear()
    async with service(store, "httptools", seconds=30, budget=30) as (client, admission):
        waiting = [put(client, number) for number in range(SLOTS + QUEUE * SLOTS)]
        await until(lambda: admission.waiting == QUEUE * SLOTS)
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(_request("PUT", f"/guid/{GUIDS[30]}"))
        assert is_rejected(await read_reply(reader, "PUT"))
        clock = asyncio.get_running_loop().time
        rejected_at = clock()
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.get("/livez")).status == 200, "other connections are read"
        assert (await read_reply(reader, "GET")).status == 200
        assert clock() - rejected_at > 0.9 * read_throttle.SECONDS
        await hang_up(writer)
        store.open.set()
        assert {(await task).status for task in waiting} == {201}


async def test_trusted_proxy_is_read_on_after_a_rejection(
    expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request on its connection may come from another client."""
    expected_logs.add("overloaded, rejecting requests")
    monkeypatch.setattr(read_throttle, "SECONDS", 1000.0)
    store = GatedStore()
    store.open.clear()
    async with service(store, "httptools", proxies=("127.0.0.1",), seconds=30, budget=30) as (client, admission):
        waiting = [put(client, number) for number in range(SLOTS + QUEUE * SLOTS)]
        await until(lambda: admission.waiting == QUEUE * SLOTS)
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        async with asyncio.timeout(20):
            for path in (f"/guid/{GUIDS[30]}", "/guid:batch"):
                writer.write(_request("PUT", path))
                assert is_rejected(await read_reply(reader, "PUT"))
            writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
            assert (await read_reply(reader, "GET")).status == 200
        await hang_up(writer)
        store.open.set()
        assert {(await task).status for task in waiting} == {201}


async def test_request_without_work_leaves_no_slot_taken(server: str) -> None:
    async with service(GatedStore(), server) as (client, admission):
        for method, path, status in (
            ("OPTIONS", "/guid", 204),
            ("GET", "/guid/x", 400),
            ("POST", "/guid/x", 405),
            ("GET", "/guid?limit=0", 400),
            ("GET", "/guidx", 404),
            ("GET", f"/guid/{GUIDS[0]}?view=full", 404),
        ):
            assert (await client.ask(method, path)).status == status
        assert admission.in_progress == 0


class LoopLag:
    """A clock of the event loop that jumps, as if something had blocked the loop; real time would pass at any speed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self._seconds = 0
        monkeypatch.setattr(loop, "time", lambda: self._time() + self._seconds)

    async def block(self, seconds: int) -> None:
        """Let so many seconds pass, and then run what is due."""
        self._seconds += seconds
        await run_ready_tasks()


async def test_request_during_loop_lag_is_rejected_despite_free_slots(
    expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_logs.add("overloaded, rejecting requests")
    admission = Admission(3, seconds=100, budget=1_000)
    lag = LoopLag(monkeypatch)
    async with admission.slot(CancelScope()):
        for expected in (False, True):  # once is not overload
            await lag.block(50)
            assert admission.is_full_for("") is expected
        with pytest.raises(Overloaded):
            await admission.slot(CancelScope()).__aenter__()
        async with admission.slot(CancelScope(), patient=True):
            await lag.block(10)  # the scan was due after 5 s, and may be late by 20 s
            assert not admission.is_full_for("")
        async with admission.slot(CancelScope()):
            assert admission.in_progress == 2


async def test_caller_without_other_work_gets_a_slot_despite_loop_lag(
    expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a caller that keeps the loop busy is rejected, and others are not."""
    expected_logs.add("overloaded, rejecting requests")
    admission = Admission(3, seconds=100, budget=1_000)
    lag = LoopLag(monkeypatch)
    async with admission.slot(CancelScope(), "busy"):
        for _ in range(2):
            await lag.block(50)
        assert admission.is_full_for("busy")
        assert admission.is_full_for(None), "an unauthenticated caller must wait for the loop to recover"
        assert not admission.is_full_for("a")
        async with admission.slot(CancelScope(), "a"):
            with pytest.raises(Overloaded):
                await admission.slot(CancelScope(), "a").__aenter__()
            async with admission.slot(CancelScope(), "b"):
                assert admission.is_full_for("c"), "there is no free slot"
            assert not admission.is_full_for("c")
        assert admission.is_full_for("busy")


# Time limits of requests


async def test_request_over_its_time_limit_changes_nothing(server: str, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("request failed")
    store = GatedStore()
    store.open.clear()
    async with service(store, server, seconds=0.2, budget=0.2) as (client, admission):
        for reply in await asyncio.gather(put(client, 0), get(client, 1)):
            assert is_rejected(reply)
            assert "exceeded its time limit" in reply.json["detail"]
        assert (admission.overdue, admission.in_progress) == (2, 0)
        store.open.set()
        assert (await client.get(f"/guid/{GUIDS[0]}")).status == 404
        assert store.records == {}


@pytest.mark.parametrize("send", [put, post])
async def test_write_in_the_store_is_answered_however_long_it_takes(
    server: str, send: Callable[[Client, int], "asyncio.Task[Reply]"]
) -> None:
    store = GatedStore()
    store.swap_gates = [gate := asyncio.Event()]
    async with service(store, server, seconds=1.0, budget=1.0) as (client, _admission):
        writing = send(client, 0)
        await until(lambda: not store.swap_gates)
        assert is_rejected(await asyncio.create_task(_slow_read(client, store))), "its time limit ended later"
        assert not writing.done()
        gate.set()

        assert (await writing).status == 201
        assert len(store.records) == 1


async def _slow_read(client: Client, store: GatedStore) -> Reply:
    store.open.clear()
    reply = await get(client, 5)
    store.open.set()
    return reply


@pytest.fixture(autouse=True)
def _expect_slow_read_logs(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("the request took longer than its time limit")


async def test_timed_out_batch_reports_which_operations_were_executed(server: str) -> None:
    store, gate = GatedStore(), asyncio.Event()
    store.swap_gates = [gate] * 2  # of the two GUIDs: on a busy machine, either may be first
    async with service(store, server, seconds=1.0, budget=1.0) as (client, _admission):
        same = {"guid": GUIDS[0], "user": "x"}
        operations = [same, same | {"user": "y"}, {"guid": GUIDS[1], "user": "x"}]
        batch = asyncio.create_task(client.post("/guid:batch", {"operations": operations}))
        await until(lambda: not store.swap_gates)
        assert is_rejected(await asyncio.create_task(_slow_read(client, store)))
        gate.set()

        results = (await batch).json["results"]
        assert [result["status"] for result in results] == [201, 503, 201]
        assert (store.records[GUIDS[0]].user, store.records[GUIDS[1]].user) == ("x", "x")


async def test_results_of_a_batch_are_sent_though_the_rest_times_out(server: str) -> None:
    store = GatedStore()
    store.swap_gates = [gate := asyncio.Event()]
    async with service(store, server, seconds=1.0, budget=1.0) as (client, _):
        operations = [{"guid": GUIDS[0], "user": "x"}, {"op": "get", "guid": GUIDS[0]}]
        batch = asyncio.create_task(client.post("/guid:batch", {"operations": operations}))
        await until(lambda: not store.swap_gates)
        store.open.clear()
        gate.set()
        assert is_rejected(await get(client, 5)), "its time limit ended later"
        assert not batch.done()
        store.open.set()

        assert [result["status"] for result in (await batch).json["results"]] == [201, 200]


# Disconnected clients


async def _hang_up_after(client: Client, request: bytes, condition: Callable[[], bool]) -> None:
    """Send a request, wait for a condition, and reset the connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(request)
    await until(condition)
    await reset(writer)


def _request(method: str, path: str) -> bytes:
    value = {"operations": [{"op": "get", "guid": GUIDS[0]}]} if path == BATCH else NEW
    body = b"" if method == "GET" else json.dumps(value).encode()
    content_type = b"Content-Type: application/json\r\n"
    return b"%b %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (
        method.encode(), path.encode(), content_type, len(body), body,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", f"/guid/{GUIDS[0]}"), ("PUT", f"/guid/{GUIDS[0]}?view=full"), ("GET", f"/guid/{GUIDS[0]}")],
)
async def test_work_of_a_disconnected_client_is_dropped(server: str, method: str, path: str) -> None:
    store = GatedStore()
    store.open.clear()
    async with service(store, server, seconds=30, budget=30) as (client, admission):
        await _hang_up_after(client, _request(method, path), lambda: store.gets > 0)
        await until(lambda: admission.in_progress == 0)
        assert admission.dropped == 1
        store.open.set()
        assert (await client.get(f"/guid/{GUIDS[0]}")).status == 404


@pytest.mark.parametrize(
    ("route", "method", "path"),
    [
        ("/guid/{guid}", "PUT", f"/guid/{GUIDS[0]}"),
        ("/guid/{guid}", "PUT", f"/guid/{GUIDS[0]}?view=full"),
        ("/guid/{guid}", "GET", f"/guid/{GUIDS[0]}"),
        ("/guid/{guid}/renewal", "POST", f"/guid/{GUIDS[0]}/renewal"),
        ("/guid", "POST", "/guid"),
        ("/guid", "GET", "/guid"),
        (BATCH, "POST", BATCH),
    ],
)
async def test_request_of_a_disconnected_client_is_no_5xx(server: str, route: str, method: str, path: str) -> None:
    """It has the status 499 in the metrics and in the access log, so that it never counts as a failed request."""
    store, lines = GatedStore(), Lines()
    store.open.clear()
    async with service(store, server, access_log=RecordingAccessLog(lines.append), seconds=30, budget=30) as (
        client, admission,
    ):  # fmt: skip
        running = [put(client, number) for number in range(1, 1 + SLOTS)]
        await until(lambda: admission.in_progress == SLOTS)
        await _hang_up_after(client, _request(method, path), lambda: admission.waiting == 1)
        await until(lambda: bool(lines))
        store.open.set()
        assert {(await task).status for task in running} == {201}
        samples = await scrape(client)

    assert [line[:3] for line in lines if line[2] >= 400] == [(method, path.partition("?")[0], 499)]
    failed = {dict(labels)["status"] for name, labels in samples if name == "guidsvc_requests_total"} - {"201"}
    assert failed == {"499"}
    assert value(samples, "guidsvc_requests_total", route=route, method=method, status="499") == 1


@pytest.mark.parametrize("path", [f"/guid/{GUIDS[0]}", f"/guid/{GUIDS[0]}?view=full"])
async def test_write_in_the_store_completes_without_its_client(server: str, path: str) -> None:
    store = GatedStore()
    store.swap_gates = [gate := asyncio.Event()]
    async with service(store, server, seconds=30, budget=30) as (client, admission):
        await _hang_up_after(client, _request("PUT", path), lambda: not store.swap_gates)
        gate.set()
        await until(lambda: GUIDS[0] in store.records)
        await until(lambda: admission.in_progress == 0)
        assert (await client.get(f"/guid/{GUIDS[0]}")).status == 200


async def test_client_that_leaves_the_queue_frees_its_turn(server: str) -> None:
    store = GatedStore()
    store.open.clear()
    async with service(store, server, seconds=30, budget=30) as (client, admission):
        running = [put(client, number) for number in range(1, 1 + SLOTS)]
        await until(lambda: admission.in_progress == SLOTS)
        await _hang_up_after(client, _request("PUT", f"/guid/{GUIDS[0]}"), lambda: admission.waiting == 1)
        await until(lambda: admission.waiting == 0)
        last = put(client, 9)
        await until(lambda: admission.waiting == 1)
        store.open.set()

        assert {(await task).status for task in [*running, last]} == {201}
        assert GUIDS[0] not in store.records


# Writes to the disk


@asynccontextmanager
async def locked_disk(folder: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Lock the database inside the block; yield a function that releases it."""
    with closing(sqlite3.connect(folder / "guidsvc.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")

        async def release() -> None:
            connection.execute("ROLLBACK")

        yield release


async def test_write_queued_for_the_disk_is_dropped_at_its_time_limit(
    serving: Serving, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("request failed")
    async with serving(request_timeout=1) as client:
        await client.put(f"/guid/{GUIDS[9]}", NEW)
        async with locked_disk(tmp_path) as release:
            first = put(client, 0)
            while not await _reaches_the_disk(client):
                pass
            second = put(client, 1)
            assert is_rejected(await second)
            assert not first.done(), "the disk executes it, so it must not be reported as not executed"
            await release()
        assert (await first).status == 201
        assert (await client.get(f"/guid/{GUIDS[1]}")).status == 404


async def _reaches_the_disk(client: Client) -> bool:
    """Give an earlier write time to reach the disk: responses on another connection show that turns have passed."""
    for _ in range(20):
        await client.get("/livez")
    return True


async def test_write_queued_for_the_disk_is_dropped_with_its_client(serving: Serving, tmp_path: Path) -> None:
    async with serving() as client:
        await client.put(f"/guid/{GUIDS[9]}", NEW)
        async with locked_disk(tmp_path) as release:
            first = put(client, 0)
            await _reaches_the_disk(client)
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(_request("PUT", f"/guid/{GUIDS[1]}"))
            await _reaches_the_disk(client)
            await reset(writer)
            await _reaches_the_disk(client)
            await release()
        assert (await first).status == 201
        assert (await client.put(f"/guid/{GUIDS[2]}", NEW)).status == 201, (
            "it would have to wait if the write had not been dropped"
        )
        assert (await client.get(f"/guid/{GUIDS[1]}")).status == 404


async def test_slow_stream_reader_holds_no_slot(server: str, tmp_path: Path) -> None:
    async with (
        open_store(f"sqlite:///{tmp_path / 'guidsvc.db'}", exclusive=True) as store,
        service(store, server, seconds=30, budget=30) as (client, admission),
    ):
        lines = b'{"user": "x", "metadata": {"room": "%b"}}\n' % (b"x" * 8000) * 1000
        headers = b"Content-Type: application/x-ndjson\r\nAccept: application/x-ndjson\r\n"
        for request in (
            b"POST /guid:batch HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(lines), lines),
            b"GET /guid HTTP/1.1\r\nHost: a\r\n%b\r\n" % headers,
        ):
            client_socket = socket.socket()
            client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            client_socket.connect(("127.0.0.1", client.port))
            reader, writer = await asyncio.open_connection(sock=client_socket)
            writer.write(request)
            await reader.readexactly(1000)
            async with asyncio.timeout(15):  # before such a client is disconnected
                await until(lambda: admission.in_progress == 0)
            assert not reader.at_eof()
            await reset(writer)
