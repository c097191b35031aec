"""The store of several workers fails and recovers: the log lines of each worker."""

import json
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.backing_servers import Server, Service, service, wait_until
from tests.support.factories import GUID

WORKERS = 2


def get_json(running: Service, path: str) -> tuple[int, dict[str, Any]]:
    """Send a request on a new connection, which any worker may accept."""
    connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def lines_of(running: Service) -> list[dict[str, Any]]:
    """Return the complete log lines, all of which are JSON except the banner."""
    complete = running.log.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in complete.splitlines() if not line.startswith(("guidsvc", "  "))]


def workers_that_logged(running: Service, event: str) -> Counter[int]:
    """Return the number of lines with this event by worker."""
    return Counter(line["worker"] for line in lines_of(running) if line["event"] == event)


@pytest.mark.slow
def test_each_worker_logs_an_outage_of_the_store_once(tmp_path: Path, own_mongo: Server, redis_url: str) -> None:
    options = ["--store-url", f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc", "--cache-url", redis_url]
    with service(tmp_path, *options, "--workers", str(WORKERS), "--log-format", "json") as running:
        wait_until(
            lambda: '"event": "serving"' in running.log.read_text(),
            "the banner, once all workers are ready",
            running.log,
        )
        assert get_json(running, "/readyz")[1]["store"] == "up"
        own_mongo.pause()
        wait_until(
            lambda: workers_that_logged(running, "store unavailable").total() == WORKERS, "the outage", running.log
        )
        for _ in range(10):
            status, report = get_json(running, "/readyz")
            assert (status, report["ready"], report["store"]) == (503, False, "down")
        assert {get_json(running, f"/guid/{GUID}")[0] for _ in range(3)} == {503}

        own_mongo.resume()
        wait_until(
            lambda: workers_that_logged(running, "store available again").total() == WORKERS,
            "the recovery",
            running.log,
        )
        assert {get_json(running, "/readyz")[0] for _ in range(10)} == {200}
        running.stop()
    for event in ("store unavailable", "store available again"):
        assert list(workers_that_logged(running, event).values()) == [1] * WORKERS
    assert {line["error"][:8] for line in lines_of(running) if line["event"] == "store unavailable"} == {"MongoDB:"}
    assert max(len(line.get("error", "")) for line in lines_of(running)) < 300, (
        "the line must not have the driver's text"
    )
    assert len([line for line in lines_of(running) if line["event"] == "request" and line.get("code")]) >= 13


@pytest.mark.slow
@pytest.mark.parametrize("has_redis", [False, True])
def test_cached_record_without_mongodb_depends_on_redis(
    tmp_path: Path, own_mongo: Server, redis_url: str, *, has_redis: bool
) -> None:
    """The fence, without which no process may use Redis, is in MongoDB."""
    options = ["--store-url", f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc", "--log-format", "json"]
    options += ["--cache-url", redis_url] if has_redis else []
    with service(tmp_path, *options) as running:
        http = HTTPConnection("127.0.0.1", running.port, timeout=30)
        http.request("PUT", f"/guid/{GUID}", '{"user": "x"}')
        assert http.getresponse().status == 201
        http.close()
        wait_until(lambda: not has_redis or "cache enabled" in running.log.read_text(), "the cache", running.log)
        assert get_json(running, f"/guid/{GUID}")[0] == 200
        own_mongo.pause()
        wait_until(lambda: "store unavailable" in running.log.read_text(), "the outage", running.log)
        if has_redis:
            wait_until(lambda: get_json(running, f"/guid/{GUID}")[0] == 503, "the end of the cache", running.log)
            wait_until(lambda: "cache fence unreadable" in running.log.read_text(), "the reason", running.log)
        else:
            assert get_json(running, f"/guid/{GUID}")[0] == 200
        own_mongo.resume()
        wait_until(lambda: "store available again" in running.log.read_text(), "the recovery", running.log)
