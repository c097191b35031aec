"""Reads that demand a time to live, on each store and each cache; the times of `view=full`."""

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

pytestmark = pytest.mark.each_once

PATH = f"/guid/{GUID}"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_read_demands_at_least_so_many_seconds(client: Client, clock: FakeClock, method: str) -> None:
    clock.now = clock.seconds * 1000
    created = await client.put(PATH, {"user": USER, "ttl": 600})
    for _ in range(3):  # from the store, from the cache, and as a remembered request
        reply = await client.ask(method, f"{PATH}?valid_for=600")
        assert (reply.status, reply.headers["ETag"]) == (200, created.headers["ETag"])
        assert reply.body == (created.body if method == "GET" else b"")
        assert (await client.ask(method, f"{PATH}?valid_for=0601")).status == 409
    clock.now += 1
    for _ in range(3):
        assert (await client.ask(method, f"{PATH}?valid_for=600")).status == 409
        assert (await client.ask(method, f"{PATH}?valid_for=599")).status == 200
    problem = assert_problem(await client.get(f"{PATH}?valid_for=600"), 409, "expires-too-soon")
    assert (problem["expire"], problem["left"], problem["valid_for"]) == (created.json["expire"], "599", "600")
    clock.advance(seconds=600)
    for _ in range(2):
        assert (await client.ask(method, f"{PATH}?valid_for=1")).status == 410
        assert (await client.ask(method, f"/guid/{'0' * 32}?valid_for=1")).status == 404


async def test_demand_precedes_preconditions(client: Client) -> None:
    created = await client.put(PATH, {"user": USER, "ttl": 60})
    condition = {"If-None-Match": created.headers["ETag"]}
    for _ in range(2):
        assert (await client.get(f"{PATH}?valid_for=50", headers=condition)).status == 304
        assert (await client.get(f"{PATH}?valid_for=70", headers=condition)).status == 409
        assert (await client.get(f"{PATH}?valid_for=70", headers={"If-Match": '"7"'})).status == 409
        assert (await client.get(f"{PATH}?valid_for=50", headers={"If-Match": '"7"'})).status == 412


async def test_demand_combines_with_the_full_view(client: Client) -> None:
    await client.put(PATH, {"user": USER, "ttl": 60})

    assert "version" in (await client.get(f"{PATH}?view=full&valid_for=50")).json
    assert_problem(await client.get(f"{PATH}?view=full&valid_for=70"), 409, "expires-too-soon")


async def test_demand_must_be_a_number_of_seconds(client: Client) -> None:
    await client.put(PATH, {"user": USER, "ttl": 60})
    for value in ("0", "-1", "", "1.5", "5m", "253402300800", "%31%30x"):
        problem = assert_problem(await client.get(f"{PATH}?valid_for={value}"), 400, "invalid-request")
        assert str(problem["detail"]).startswith("`valid_for` must be a whole number of seconds"), value
    assert_problem(await client.get(f"{PATH}?valid_for=1&valid_for=1"), 400, "invalid-request")
    assert_problem(await client.get("/guid?valid_for=1"), 400, "invalid-request")


async def test_page_of_a_record_demands_it_too(client: Client) -> None:
    await client.put(PATH, {"user": USER, "ttl": 60})
    browser = {"Accept": "text/html"}

    assert (await client.get(f"{PATH}?valid_for=50", headers=browser)).status == 200
    assert b"expires-too-soon" in (await client.get(f"{PATH}?valid_for=70", headers=browser)).body


async def test_get_of_a_batch_demands_it(client: Client) -> None:
    await client.put(PATH, {"user": USER, "ttl": 60})
    operations = [{"op": "get", "guid": GUID, "valid_for": seconds} for seconds in (50, "70", 0)]
    operations.append({"op": "delete", "guid": GUID, "valid_for": 5})
    results = (await client.post("/guid:batch", {"operations": operations})).json["results"]

    assert [result["status"] for result in results] == [200, 409, 400, 400]
    assert results[1]["problem"]["left"] == "60"


async def test_full_view_says_when_to_renew_and_until_when(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    clock.now = clock.seconds * 1000
    async with serving(**combination, max_ttl=1000, max_life=5000) as client:
        await client.put(PATH, {"user": USER, "ttl": 600})
        full = (await client.get(f"{PATH}?view=full")).json
        assert list(full)[-4:] == ["renew_at", "max_expire", "state", "owner"]
        assert full["max_expire"] == str(clock.seconds + 1000)
        assert 300 <= int(full["renew_at"]) - clock.seconds <= 420
        renewal = await client.post(f"{PATH}/renewal", {"ttl": 600, "if_below": 1})
        assert (renewal.json["renew_at"], renewal.json["max_expire"]) == (full["renew_at"], full["max_expire"])
        (item,) = (await client.get("/guid?view=full")).json["items"]
        assert item == full
        revoked = (await client.put(f"{PATH}?view=full", {"expire": 0})).json
        assert revoked["renew_at"] is None
