"""The source of a record and the time of a request, in response headers and in the access log."""

import asyncio
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import http_sf
import pytest

from guidsvc.http.headers.diagnostics import CACHE_STATUS
from guidsvc.telemetry.tracing import DOWN, MISS
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.backing_servers import Server, service, wait_until
from tests.support.factories import GUID, USER
from tests.support.metrics import until_cached
from tests.support.secured_service import SecuredService

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}"
FULL = (f"{PATH}?view=full", f"/guid/{'F' * 32}?view=full")


def parse_cache_status(header: str) -> tuple[str, dict[str, Any]]:
    """Parse the only member of a Cache-Status header."""
    members: Any = http_sf.parse(header.encode(), name="cache-status")
    ((name, parameters),) = members
    return str(name), parameters


async def test_diagnostic_headers_are_off_by_default(serving: Serving) -> None:
    async with serving() as client:
        await client.put(PATH, {"user": USER})
        for _ in range(3):
            reply = await client.get(PATH)
            assert "Cache-Status" not in reply.headers
            assert "Server-Timing" not in reply.headers


async def test_cache_status_names_the_source_of_a_record(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination, cache_status=True) as client:
        await until_cached(client)
        write = await client.put(PATH, {"user": USER})
        assert "Cache-Status" not in write.headers, "a write has no Cache-Status"
        first = last = await client.get(PATH)
        while last.headers["Cache-Status"] == CACHE_STATUS[MISS]:  # the cache is filled in the background
            last = await client.get(PATH)
        full = await client.get(f"{PATH}?view=full")
        missing = await client.get("/guid/" + "F" * 32)
        revalidation = await client.get(PATH, headers={"If-None-Match": first.headers["ETag"]})

    assert first.headers["Cache-Status"] == CACHE_STATUS[MISS]
    name, parameters = parse_cache_status(last.headers["Cache-Status"])
    assert (name, parameters["hit"]) == ("guidsvc", True)
    assert "fwd" not in parameters
    assert "Server-Timing" not in first.headers, "it is not enabled"
    assert revalidation.status == 304
    assert all(parse_cache_status(reply.headers["Cache-Status"])[1]["hit"] for reply in (revalidation, full))
    assert "Cache-Status" not in missing.headers


@pytest.mark.parametrize("source", CACHE_STATUS)
def test_cache_status_follows_rfc_9211(source: str) -> None:
    name, parameters = parse_cache_status(CACHE_STATUS[source])

    assert name == "guidsvc"
    if source in {MISS, DOWN}:
        detail = "store" if source == MISS else "down"
        assert {key: str(parameter) for key, parameter in parameters.items()} == {"fwd": "miss", "detail": detail}
    else:
        assert parameters["hit"] is True
        assert (str(parameters["detail"]), len(parameters)) == (source, 2)


@pytest.mark.slow
async def test_cache_status_says_that_redis_is_down(
    serving: Serving, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("redis unavailable", "cache disabled")
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0", cache_status=True) as client:
        await until_cached(client)
        await client.put(PATH, {"user": USER})
        own_redis.kill()
        async with asyncio.timeout(30):
            while (reply := await client.get(PATH)).headers["Cache-Status"] != CACHE_STATUS[DOWN]:
                await asyncio.sleep(0.05)
        for path in (PATH, f"{PATH}?view=full"):
            reply = await client.get(path)
            assert (reply.status, reply.headers["Cache-Status"]) == (200, CACHE_STATUS[DOWN])


async def test_server_timing_reports_durations(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination, server_timing=True) as client:
        write = await client.put(PATH, {"user": USER})
        read_reply = await client.get(PATH)
        page = await client.get("/guid")
        lines = await client.get("/guid", headers={"Accept": "application/x-ndjson"})
        live = await client.get("/livez")
        nothing = await client.get("/nothing")

    assert "Cache-Status" not in read_reply.headers, "it is not enabled"
    parts = [_parse_server_timing(reply.headers["Server-Timing"]) for reply in (write, page, live, nothing, lines)]
    assert {"store", "total"} <= parts[0].keys()
    assert {"store", "total"} <= parts[1].keys()
    assert 0 < parts[0]["store"] <= parts[0]["total"] < 30_000
    assert parts[2].keys() == parts[3].keys() == {"total"}


async def test_server_timing_of_not_found_hides_foreign_records(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """One of the two GUIDs is cached, so its lookup does not use the store."""
    async with serving(**combination, server_timing=True, access="keys") as client:
        secured = SecuredService(client, combination["store_url"], clock)
        alice, bob = await secured.key_client("alice"), await secured.key_client("bob", "read write delete")
        assert (await alice.ask("PUT", PATH, json={"user": USER})).status == 201
        own_reads = [await alice.ask("GET", PATH) for _ in range(3)]
        assert "store" in _parse_server_timing(own_reads[0].headers["Server-Timing"])
        batch = {"operations": [{"op": "get", "guid": guid} for guid in (GUID, "F" * 32)]}
        for path in (PATH, f"/guid/{'F' * 32}", *FULL):
            for method in ("GET", "HEAD") if path in FULL else ("GET", "HEAD", "PATCH", "DELETE"):
                reply = await bob.ask(method, path, json={} if method == "PATCH" else None)
                assert reply.status == 404
                assert _parse_server_timing(reply.headers["Server-Timing"]).keys() == {"total"}, method
        for query in ("", "?validate_only=true"):
            reply = await bob.ask("POST", f"/guid:batch{query}", json=batch)
            assert _parse_server_timing(reply.headers["Server-Timing"]).keys() == {"total"}
            lines = "".join(json.dumps(operation) + "\n" for operation in batch["operations"]).encode()
            kind = {"Content-Type": "application/x-ndjson"}
            reply = await bob.ask("POST", f"/guid:batch{query}", body=lines, headers=kind)
            assert _parse_server_timing(reply.headers["Server-Timing"]).keys() <= {"total"}


def _parse_server_timing(header: str) -> dict[str, float]:
    return {name: float(duration) for name, duration in re.findall(r"(\w+);dur=([0-9.]+)(?:, |$)", header)}


def test_access_log_names_the_source_of_a_record(tmp_path: Path) -> None:
    with service(tmp_path, "--log-format", "json") as running:
        put = urllib.request.Request(f"{running.url}{PATH}", data=b'{"user": "a"}', method="PUT")
        urllib.request.urlopen(put, timeout=30).close()
        for path in (PATH, PATH, f"{PATH}?view=full", "/livez"):
            urllib.request.urlopen(running.url + path, timeout=30).close()
        wait_until(lambda: running.log.read_text().count('"event": "request"') == 5, "the lines", running.log)
        lines = [json.loads(line) for line in running.log.read_text().splitlines() if '"request"' in line]

    assert [line.get("cache") for line in lines] == [None, "miss", "l1", "l1", None]
    assert all("cache" not in line for line in (lines[0], lines[-1]))
