"""The quota as clients see it, on each store and each cache."""

import asyncio

import pytest

from tests.conftest import Serving
from tests.support.http_client import Client

pytestmark = pytest.mark.each_backend

QUOTA = 100


async def total(client: Client) -> int:
    """Count the live records with the list of the service."""
    reply = await client.get("/guid?limit=1", headers={"Prefer": "return=total-count"})
    return int(reply.json["total"])


async def test_batch_of_a_thousand_leaves_the_quota_of_a_hundred(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination, quota=QUOTA) as client:
        operations = [{"op": "put", "user": "a"} for _ in range(1000)]
        for query, created, live in (("?validate_only=true", QUOTA, 0), ("", QUOTA, QUOTA), ("", 0, QUOTA)):
            reply = await client.ask("POST", f"/guid:batch{query}", json={"operations": operations})
            statuses = [result["status"] for result in reply.json["results"]]
            assert (statuses.count(201), statuses.count(403)) == (created, 1000 - created)
            assert await total(client) == live
        assert reply.json["results"][0]["problem"]["code"] == "quota-exceeded"


@pytest.mark.parametrize("server", ["httptools"])
async def test_concurrent_requests_report_only_stored_creations(serving: Serving, server: str) -> None:
    async with serving(quota=20) as client:
        methods = [("PUT" if number % 2 else "POST") for number in range(200)]
        replies = await asyncio.gather(*(client.ask(method, "/guid", json={"user": "a"}) for method in methods))

        assert sorted({reply.status for reply in replies}) == [201, 403]
        assert [reply.status for reply in replies].count(201) == await total(client) == 20
        for reply in replies:
            if reply.status == 403:
                assert reply.json["code"] == "quota-exceeded"
        guid = next(reply.json["guid"] for reply in replies if reply.status == 201)
        assert (await client.ask("PUT", f"/guid/{guid}", json={"user": "b"})).status == 200
        assert (await client.ask("PUT", f"/guid/{'0' * 32}", json={"user": "b"})).status == 403
        assert (await client.ask("DELETE", f"/guid/{guid}")).status == 204
        assert (await client.ask("PUT", f"/guid/{'0' * 32}", json={"user": "b"})).status == 201
