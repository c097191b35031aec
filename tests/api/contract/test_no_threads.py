"""A system without a thread left, as with a limit of processes in a container: requests are served all the same."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import ExpectedLogs, Serving
from tests.support.factories import GUID
from tests.support.http_client import Reply

LARGE = {"operations": [{"user": "a", "metadata": {"text": "x" * 1500}} for _ in range(100)]}
LINES = {"Content-Type": "application/x-ndjson"}


@contextmanager
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no thread start within the block."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


async def test_requests_are_served_without_threads(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("background task failed, restarting it")  # the watch of the file sizes, on a busy machine
    replies: dict[str, Reply] = {}
    async with serving() as client:
        with no_threads(monkeypatch):
            replies["create"] = await client.put(f"/guid/{GUID}", {"user": "a"})
            for attempt in ("first", "repeated"):
                replies[f"{attempt} batch"] = await client.post("/guid:batch", LARGE, headers={"Idempotency-Key": "k"})
            replies["lines"] = await client.ask("POST", "/guid:batch", body=b'{"user": "a"}\n' * 500, headers=LINES)
            replies["total"] = await client.get("/guid?sort=expire", headers={"Prefer": "return=total-count"})
            replies["stream"] = await client.get("/guid", headers={"Accept": "application/x-ndjson"})
            for path in ("/events", "/stats", "/metrics", "/openapi.json", "/readyz"):
                replies[path] = await client.get(path)

    assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(replies, 200) | {"create": 201}
    results = [replies[f"{attempt} batch"].json["results"] for attempt in ("first", "repeated")]
    assert results[0] == results[1]
    assert all("record" in each for each in results[0])
    assert replies["/readyz"].json["status"] == "ready"
