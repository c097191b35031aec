"""Liveness, readiness, version and root: the endpoints for operators."""

import asyncio
import logging
from collections.abc import Callable

import pytest

import guidsvc
from guidsvc.runtime.clock import system_clock
from guidsvc.store.mongo.events.server_clock import ServerClock
from tests.conftest import ExpectedLogs, Serving
from tests.support.assertions import assert_problem
from tests.support.backing_servers import Server
from tests.support.factories import GUID, USER
from tests.support.readiness import until_ready


async def test_service_with_all_parts_is_live_and_ready(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination) as client:
        assert (await client.get("/livez")).json == {"status": "live"}
        report = (await client.get("/readyz")).json
        assert report.pop("age_ms") >= 0
        assert report == {"ready": True, "status": "ready", "store": "up", "cache": "up", "workers": 1}


async def test_cache_without_memory_is_off(serving: Serving, own_redis: Server) -> None:
    """Redis caches without memory in the process."""
    for url, state in (("memory://", "off"), (f"redis://127.0.0.1:{own_redis.port}/0", "up")):
        async with serving(cache_url=url, cache_size=0) as client:
            report = (await client.get("/readyz")).json
            assert (report["ready"], report["status"], report["cache"]) == (True, "ready", state)


@pytest.mark.slow
async def test_service_without_redis_is_degraded_and_still_serves(
    serving: Serving, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("redis unavailable", "cache disabled")
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0") as client:
        created = await client.put(f"/guid/{GUID}", {"user": USER})
        own_redis.kill()
        assert (await client.get(f"/guid/{GUID}")).body == created.body
        reply = await until_ready(client, cache="down")
        assert (reply.status, reply.json["status"], reply.json["store"]) == (200, "degraded", "up")
        changed = await client.put(f"/guid/{GUID}", {"user": "another"})
        assert changed.status == 200
        assert (await client.get(f"/guid/{GUID}")).body == changed.body
        own_redis.start()
        await until_ready(client, status="ready")
        assert (await client.put(f"/guid/{GUID}", {"user": "another"})).status == 200


async def test_service_with_a_wrong_clock_is_degraded(
    serving: Serving, mongo_url: str, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_logs.add("clock differs from that of MongoDB")
    monkeypatch.setattr(ServerClock, "start", lambda _: system_clock() + 60_000)
    async with serving(store_url=mongo_url) as client:
        reply = await until_ready(client, status="degraded")
        assert (reply.status, reply.json["store"], reply.json["cache"]) == (200, "up", "up")
        assert reply.json["clock"] == "60.0 s ahead"
        metrics = (await client.get("/metrics")).body.decode()
        assert float(metrics.split("\nguidsvc_clock_skew_seconds ")[1].split()[0]) == pytest.approx(60, abs=1)
        assert "\nguidsvc_sequencer_lag_seconds 0.0" in metrics


async def test_readiness_detects_dead_redis_without_traffic(
    serving: Serving, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("redis unavailable")
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0") as client:
        assert (await client.get("/readyz")).json["cache"] == "up"
        own_redis.kill()
        await until_ready(client, cache="down")


@pytest.mark.slow
@pytest.mark.parametrize("fail", [Server.kill, Server.pause], ids=["killed", "silent"])
async def test_readiness_does_not_wait_for_a_store_that_is_down(
    serving: Serving,
    own_mongo: Server,
    expected_logs: ExpectedLogs,
    fail: Callable[[Server], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It responds while an operation on the store still waits for the driver, and names each part."""
    caplog.set_level(logging.INFO)
    expected_logs.add("store unavailable", "request failed")
    async with serving(store_url=f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc") as client:
        assert (await client.get("/readyz")).status == 200
        fail(own_mongo)
        waiting_read = asyncio.create_task(client.get(f"/guid/{GUID}"))
        for _ in range(2):
            assert (await client.get("/readyz")).status in {200, 503}
        assert not waiting_read.done()
        reply = await until_ready(client, store="down")
        assert (await waiting_read).status == 503
        assert_problem(reply, 503, "unavailable")
        report = {name: reply.json[name] for name in ("ready", "store", "cache", "detail")}
        detail = "The store does not answer."
        assert report == {"ready": False, "store": "down", "cache": "up", "detail": detail}
        assert reply.json["age_ms"] >= 0

        own_mongo.resume() if fail is Server.pause else own_mongo.start()
        assert (await until_ready(client, status="ready")).status == 200
        assert (await client.get(f"/guid/{GUID}")).status == 404
    lines = [message for message in caplog.messages if "'store " in message]
    assert [line.split("'event': '")[1].split("'")[0] for line in lines] == [
        "store unavailable",
        "store available again",
    ]
    assert "down_seconds" in lines[1]
    assert max(map(len, caplog.messages)) < 500, "not the driver's description of the whole cluster"


async def test_failed_operation_is_known_before_the_next_probe(
    serving: Serving, own_redis: Server, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidsvc.monitoring.health.PROBE_SECONDS", 3600.0)
    expected_logs.add("redis unavailable", "cache disabled")
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0") as client:
        await client.put(f"/guid/{GUID}", {"user": USER})
        own_redis.kill()
        await client.get(f"/guid/{GUID}")
        await until_ready(client, cache="down")


async def test_version_is_that_of_the_package(serving: Serving) -> None:
    async with serving() as client:
        assert (await client.get("/version")).json == {"name": "guidsvc", "version": guidsvc.__version__}


async def test_root_links_to_the_resources(serving: Serving) -> None:
    async with serving() as client:
        root = (await client.get("/")).json
        assert (root["name"], root["version"]) == ("guidsvc", guidsvc.__version__)
        for path in root["links"].values():
            assert (await client.get(path)).status in {200, 405}


async def test_health_supports_head_and_options(serving: Serving) -> None:
    async with serving() as client:
        for path in ("/livez", "/readyz", "/version", "/"):
            assert (await client.ask("HEAD", path)).status == 200
            assert (await client.ask("OPTIONS", path)).headers["Allow"] == "GET, HEAD, OPTIONS"
            assert_problem(await client.post(path, {}), 405, "method-not-allowed")
