"""What an operator asks."""

import pytest

import guidsvc
from tests.conftest import ExpectedLogs, Serving
from tests.support.assertions import assert_problem
from tests.support.backing_servers import Server
from tests.support.factories import GUID, USER


async def test_service_with_all_parts_is_live_and_ready(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination) as client:
        assert (await client.get("/livez")).json == {"status": "live"}
        assert (await client.get("/readyz")).json == {"status": "ready", "store": "up", "cache": "up"}


@pytest.mark.slow
async def test_service_without_redis_is_degraded_and_still_serves(
    serving: Serving, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("redis unavailable", "cache disabled")
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0") as client:
        created = await client.put(f"/guid/{GUID}", {"user": USER})
        own_redis.kill()
        assert (await client.get(f"/guid/{GUID}")).body == created.body
        reply = await client.get("/readyz")
        assert (reply.status, reply.json) == (200, {"status": "degraded", "store": "up", "cache": "down"})
        changed = await client.put(f"/guid/{GUID}", {"user": "another"})
        assert changed.status == 200
        assert (await client.get(f"/guid/{GUID}")).body == changed.body
        own_redis.start()
        while (await client.get("/readyz")).json["status"] != "ready":
            pass
        assert (await client.put(f"/guid/{GUID}", {"user": "another"})).status == 200


async def test_readiness_detects_dead_redis_without_traffic(
    serving: Serving, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("redis unavailable")
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0") as client:
        assert (await client.get("/readyz")).json["cache"] == "up"
        own_redis.kill()
        assert (await client.get("/readyz")).json["cache"] == "down"


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
