"""Errors are freed with their request: none is part of a reference cycle that waits for the garbage collector."""

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import pytest
from pydantic import ValidationError

from guidsvc.errors import DeadlineExceeded, GuidsvcError, Overloaded, StoreUnavailable
from guidsvc.http import errors as http_errors
from guidsvc.http.constants import MERGE_PATCH, NDJSON
from guidsvc.runtime.admission import Admission
from guidsvc.runtime.batching import Batcher, Patience
from guidsvc.runtime.cancel_scope import CancelScope
from tests.conftest import ExpectedLogs, Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up, read_reply

ABSENT = "E" * 32
WRONG = {f"{number}": 1 for number in range(8)}
OPERATIONS = [
    WRONG,
    {},
    {"op": "get", "guid": ABSENT},
    {"op": "delete", "guid": ABSENT},
    {"guid": GUID, "user": USER, "if_none_match": "*"},
    {"guid": GUID, "user": USER, "metadata": {"x": "x" * 20_000}},
]
LARGE = {"metadata": {"x": "x" * 70_000}}
ROUNDS = 20

_HTTP_ERRORS = tuple(kind for kind in vars(http_errors).values() if isinstance(kind, type))
_ERRORS = (GuidsvcError, ValidationError, *_HTTP_ERRORS)


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def errors_alive() -> Counter[str]:
    """Count the errors in memory by class."""
    return Counter(type(candidate).__name__ for candidate in gc.get_objects() if issubclass(type(candidate), _ERRORS))


def frames_with_errors() -> list[str]:
    """Return where frames stopped that still hold an error."""
    frames = [each for each in gc.get_objects() if type(each) is FrameType]
    holding = [each for each in frames if any(issubclass(type(held), _ERRORS) for held in gc.get_referents(each))]
    return [each.f_code.co_qualname for each in holding]


async def send_failing_requests(client: Client) -> set[int]:
    """Send a request of each kind that fails."""
    lines = b"".join(json.dumps(operation).encode() + b"\n" for operation in OPERATIONS)
    path, json_type, ndjson = f"/guid/{GUID}", {"Content-Type": "application/json"}, {"Content-Type": NDJSON}
    replies = [
        await client.put(path, {"user": USER} | WRONG),
        await client.put(path, {f"{number}": 1 for number in range(5_000)}),
        await client.put(path, body=b'{"user"', headers=json_type),
        await client.put(path, LARGE),
        await client.put(path, {"user": USER}, headers={"If-None-Match": "*"}),
        await client.put(path, {"user": USER}, headers={"If-Match": "x"}),
        await client.put("/guid/x", {"user": USER}),
        await client.get(f"/guid/{ABSENT}"),
        await client.get("/guid?limit=x"),
        await client.get("/nothing"),
        await client.post(path, {}),
        await client.ask("DELETE", f"/guid/{ABSENT}"),
        await client.ask("PATCH", f"/guid/{ABSENT}", body=b"{}", headers={"Content-Type": MERGE_PATCH}),
        await client.post("/guid", WRONG),
        await client.post("/guid", body=b"x", headers={"Content-Type": "text/plain"}),
        await client.post("/guid:batch", {"operations": OPERATIONS * 20}),
        await client.post("/guid:batch", {"operations": OPERATIONS}, headers={"Idempotency-Key": "a"}),
        await client.post("/guid:batch", {"operations": [{}]}, headers={"Idempotency-Key": "a"}),
        await client.post("/guid:batch", {"operations": [LARGE, *OPERATIONS * 20]}),
        await client.post("/guid:batch", {"operations": 1}),
        await client.post("/guid:batch", body=lines * 20 + b"x\n" * 2_000, headers=ndjson),
        await client.post("/guid:batch?validate_only=true", body=lines, headers=ndjson),
        await client.post("/guid:batch?validate_only=perhaps", body=lines, headers=ndjson),
    ]
    return {reply.status for reply in replies}


async def send_malformed(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n")
    await asyncio.wait_for(read_reply(reader, "GET"), 30)
    await hang_up(writer)


@pytest.mark.slow
async def test_error_is_freed_with_its_request(serving: Serving) -> None:
    """Errors left to the collector stay for long under load, and their traceback references the whole request."""
    async with serving() as client:
        await client.put(f"/guid/{GUID}", {"user": USER})
        await send_failing_requests(client)
        with without_collector():
            errors_before = errors_alive()
            for _ in range(ROUNDS):
                assert len(await send_failing_requests(client)) > 5
                await send_malformed(client.port)
            await asyncio.sleep(0)
            leaked = {name: count for name, count in (errors_alive() - errors_before).items() if count >= ROUNDS // 2}
            assert leaked == {}, Counter(frames_with_errors())


async def failures(*coroutines: Coroutine[object, object, object]) -> set[type]:
    """Return the classes of the errors with which the coroutines end. `asyncio.gather` would keep the errors."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks)
    return {type(task.exception()) for task in tasks}


async def _fail_together(items: list[str]) -> Sequence[str | Exception]:
    raise StoreUnavailable(f"{len(items)} items")


async def _fail_each(items: list[str]) -> Sequence[str | Exception]:
    return [StoreUnavailable(item) for item in items]


async def _return_late(items: list[str]) -> Sequence[str | Exception]:
    await asyncio.sleep(0.1)
    return items


async def test_error_of_batched_call_is_freed_with_its_waiters() -> None:
    patience: Patience[str] = Patience(0.01, StoreUnavailable)
    with without_collector():
        errors_before = errors_alive()
        for run in (_fail_together, _fail_each, _return_late):
            batcher: Batcher[str, str] = Batcher(run, limit=10, in_flight=1, patience=patience)
            assert await failures(*(batcher.ask(f"{number}") for number in range(10))) == {StoreUnavailable}
            await batcher.drain()
        assert errors_alive() - errors_before == Counter(), Counter(frames_with_errors())


async def test_error_of_admission_is_freed_with_its_waiters(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("overload")
    admission = Admission(1, seconds=0.05, budget=0.05)

    async def hold() -> None:
        async with admission.slot(CancelScope(), "a"):
            await asyncio.sleep(60)

    with without_collector():
        errors_before = errors_alive()
        assert await failures(*(hold() for _ in range(10))) == {DeadlineExceeded, Overloaded}
        assert errors_alive() - errors_before == Counter(), Counter(frames_with_errors())
