"""Renewal of leases, on each store and each cache."""

import asyncio
import re
from typing import Any

import pytest

from guidsvc.domain import api_key
from guidsvc.store import open_keys
from guidsvc.store.contract import ApiKeyRepository
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem, pointers
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply

pytestmark = pytest.mark.each_backend

PATH = f"/guid/{GUID}"
RENEWAL = f"{PATH}/renewal"
DAY = 86_400
MAX_SECONDS = 253_402_300_799
BOTH: list[dict[str, Any]] = [{"ttl": 600}, {"ttl": 600, "if_below": 1}]
"""A renewal that writes, and one that does not."""
JSON = {"Content-Type": "application/json"}


async def renew(client: Client, headers: dict[str, str] | None = None, **members: Any) -> Reply:
    """Renew the lease of the GUID."""
    return await client.post(RENEWAL, members, headers=headers)


def in_seconds(clock: FakeClock, seconds: int) -> str:
    """Return the expiry of a lease of this length that begins now."""
    return str(-(-clock.now // 1000) + seconds)


async def test_renewal_moves_the_expiry_and_says_what_it_granted(client: Client, clock: FakeClock) -> None:
    created = await client.put(PATH, {"user": USER, "ttl": 60})
    clock.advance(seconds=40)
    reply = await renew(client, ttl=60, if_below=30)

    assert (reply.status, list(reply.json)) == (
        200,
        ["guid", "expire", "renewed", "granted", "capped", "max_expire", "renew_at"],
    )
    expected = {"guid": GUID, "expire": in_seconds(clock, 60), "renewed": True, "granted": "60", "capped": False}
    assert reply.json == expected | {"max_expire": None, "renew_at": reply.json["renew_at"]}
    assert int(reply.headers["ETag"].strip('"')) > int(created.headers["ETag"].strip('"'))
    record = await client.get(PATH)
    assert (record.json["expire"], record.headers["ETag"]) == (reply.json["expire"], reply.headers["ETag"])


async def test_renewal_without_ttl_grants_the_default_life(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "ttl": 60})

    assert (await renew(client)).json["expire"] == in_seconds(clock, 30 * DAY)


async def test_renewal_never_shortens(client: Client, clock: FakeClock) -> None:
    created = await client.put(PATH, {"user": USER, "ttl": 600})
    clock.advance(seconds=1)
    reply = await renew(client, ttl=60)

    assert (reply.status, reply.json["renewed"], reply.json["expire"]) == (200, False, created.json["expire"])
    assert (reply.json["granted"], reply.json["capped"]) == ("599", False)
    assert reply.headers["ETag"] == created.headers["ETag"]
    assert (await client.get(PATH)).json == created.json


async def test_renewal_with_enough_left_writes_nothing(client: Client, clock: FakeClock) -> None:
    clock.now = clock.seconds * 1000
    created = await client.put(PATH, {"user": USER, "ttl": 60})
    for remaining in (60, 31, 30):
        clock.now = (int(created.json["expire"]) - remaining) * 1000
        reply = await renew(client, ttl=60, if_below=30)
        assert (reply.json["renewed"], reply.json["granted"], reply.json["capped"]) == (False, str(remaining), False)
        assert reply.headers["ETag"] == created.headers["ETag"]
    clock.now += 1
    reply = await renew(client, ttl=60, if_below=30)
    assert (reply.json["renewed"], reply.json["granted"]) == (True, "60")


async def test_late_renewal_has_lost_the_lease_unless_it_revives(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "ttl": 1})
    clock.advance(seconds=3)

    rejected: list[dict[str, Any]] = [{"ttl": 60}, {"ttl": 60, "if_below": 30}, {}]
    for members in rejected:
        assert_problem(await renew(client, **members), 410, "expired")
    reviving: list[dict[str, Any]] = [{"ttl": 60, "revive": True}, {"revive": True, "if_below": 30}]
    for members in reviving:
        reply = await renew(client, **members)
        assert (reply.status, reply.json["renewed"]) == (200, True)
        assert (await client.get(PATH)).status == 200
        await client.put(PATH, {"ttl": 1})
        clock.advance(seconds=3)
    clock.advance(seconds=8 * DAY)
    assert_problem(await renew(client, ttl=60, revive=True), 404, "not-found")


async def test_revoked_record_is_revived_only_with_a_ttl(client: Client) -> None:
    await client.put(PATH, {"user": USER, "expire": 0})

    assert_problem(await renew(client, ttl=60), 410, "expired")
    assert_problem(await renew(client, revive=True), 410, "expired")
    assert (await renew(client, revive=True, ttl=60)).status == 200


async def test_renewal_grants_at_least_what_is_asked_or_nothing(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(**combination, max_ttl=1000) as client:
        created = await client.put(PATH, {"user": USER, "ttl": 60})
        max_expire = str(clock.seconds + 1000)
        for members in ({"ttl": 2000, "at_least": 1001}, {"at_least": 10**11}):
            problem = assert_problem(await renew(client, None, **members), 409, "life-limit")
            assert (problem["expire"], problem["max_expire"]) == (created.json["expire"], max_expire)
            assert f"less than the {members['at_least']} seconds of `at_least`" in str(problem["detail"])
        assert (await client.get(PATH)).headers["ETag"] == created.headers["ETag"]
        reply = await renew(client, ttl=2000, at_least=1000)
        assert (reply.json["granted"], reply.json["capped"]) == ("1000", True)


async def test_at_least_beyond_ttl_is_granted_without_a_limit(client: Client) -> None:
    """Only a limit may reduce the grant: without one, no `max_expire` could explain a rejection."""
    await client.put(PATH, {"user": USER, "ttl": 60})
    for members, granted in (({"ttl": 100, "at_least": 200}, 200), ({"at_least": 31 * DAY}, 31 * DAY)):
        reply = await renew(client, None, **members)
        assert (reply.status, reply.json["granted"], reply.json["capped"]) == (200, str(granted), False)
    problem = assert_problem(await renew(client, at_least=MAX_SECONDS), 409, "life-limit")
    assert problem["max_expire"] == str(MAX_SECONDS), "the end of the year 9999"


async def test_renewal_evaluates_preconditions_first(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination, require_preconditions=True) as client:
        created = await client.put(PATH, {"user": USER, "ttl": 60})
        tag = created.headers["ETag"]
        for members in BOTH:
            assert_problem(await renew(client, **members), 428, "precondition-required")
            assert_problem(await renew(client, {"If-Match": '"7"'}, **members), 412, "precondition-failed")
            assert_problem(await renew(client, {"If-None-Match": "*"}, **members), 412, "precondition-failed")
        assert (await renew(client, {"If-Match": tag}, ttl=600, if_below=1)).headers["ETag"] == tag
        assert (await renew(client, {"If-Match": tag}, ttl=600)).json["renewed"]
        assert_problem(await renew(client, {"If-Match": tag}, ttl=1200), 412, "precondition-failed")


async def test_minimal_renewal_has_no_body(client: Client) -> None:
    await client.put(PATH, {"user": USER, "ttl": 60})
    for members in BOTH:
        reply = await renew(client, {"Prefer": "return=minimal"}, **members)
        assert (reply.status, reply.body, reply.headers["Preference-Applied"]) == (204, b"", "return=minimal")
        assert reply.headers["ETag"] == (await client.get(PATH)).headers["ETag"]


async def test_repeated_renewal_with_a_key_is_replayed(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "ttl": 60})
    key = {"Idempotency-Key": "heartbeat-1"}
    first = await renew(client, key, ttl=600)
    assert first.json.keys() == (await renew(client, ttl=600)).json.keys()
    clock.advance(seconds=5)
    retry = await renew(client, key, ttl=600)

    assert retry.headers["Idempotent-Replayed"] == "true"
    assert retry.headers["ETag"] == first.headers["ETag"]
    assert retry.json == first.json | {"granted": str(int(first.json["granted"]) - 5)}, "what is left by now"
    assert_problem(await renew(client, key, ttl=601), 422, "idempotency-mismatch")


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "return=minimal"}])
async def test_replay_never_confirms_a_lease_that_has_ended(
    client: Client, clock: FakeClock, prefer: dict[str, str]
) -> None:
    """Another client may hold it by now; the first one would count the time from its last request."""
    clock.now = clock.seconds * 1000
    created = await client.put(PATH, {"user": USER, "ttl": 3})
    headers = {"Idempotency-Key": "heartbeat-1", "If-Match": created.headers["ETag"], **prefer}
    first = await renew(client, headers, ttl=5)
    assert first.status == (204 if prefer else 200)
    clock.advance(seconds=4)
    retry = await renew(client, headers, ttl=5)
    assert (retry.status, retry.headers["Idempotent-Replayed"]) == (first.status, "true")
    clock.advance(seconds=1)
    assert_problem(await renew(client, headers, ttl=5), 410, "expired")
    taken_over = await client.put(PATH, {"user": "another", "ttl": 60})
    assert taken_over.status == 200
    assert_problem(await renew(client, headers, ttl=5), 412, "precondition-failed")


async def test_replay_never_confirms_a_revoked_lease(client: Client) -> None:
    created = await client.put(PATH, {"user": USER, "ttl": 60})
    headers = {"Idempotency-Key": "heartbeat-1", "If-Match": created.headers["ETag"]}
    assert (await renew(client, headers, ttl=600)).status == 200
    assert (await client.put(PATH, {"expire": 0})).status == 200
    assert_problem(await renew(client, headers, ttl=600), 410, "expired")
    assert (await client.delete(PATH)).status == 204
    assert_problem(await renew(client, headers, ttl=600), 404, "not-found")
    assert (await client.put(PATH, {"user": "another", "ttl": 60})).status == 201
    assert_problem(await renew(client, headers, ttl=600), 412, "precondition-failed")


async def test_faults_of_a_renewal_are_told_all_at_once(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    bad = {"ttl": "0", "if_below": 1.5, "at_least": None, "revive": "yes", "expire": 5}

    assert pointers(await client.post(RENEWAL, bad)) == ["/ttl", "/if_below", "/at_least", "/revive", "/expire"]
    assert_problem(await client.ask("POST", RENEWAL, body=b"{}"), 415, "unsupported-media-type")
    assert_problem(await client.ask("POST", RENEWAL, body=b"", headers=JSON), 400, "invalid-request")
    assert_problem(await client.post(f"{RENEWAL}?x=1", {}), 400, "invalid-request")
    assert_problem(await client.post(f"/guid/{GUID.lower()}/renewal", {}), 400, "invalid-guid")
    assert_problem(await client.post(f"/guid/{'0' * 32}/renewal", {}), 404, "not-found")
    assert_problem(await client.get(RENEWAL), 405, "method-not-allowed")


async def test_batch_renews_each_lease(client: Client, clock: FakeClock) -> None:
    created = await client.put(PATH, {"user": USER, "ttl": 60})
    other = "0" * 32
    operations = [
        {"op": "renew", "guid": GUID, "ttl": 60, "if_below": 30},
        {"op": "renew", "guid": GUID, "ttl": "600"},
        {"op": "renew", "guid": other},
        {"op": "renew", "guid": GUID, "if_match": '"7"'},
        {"op": "renew", "guid": GUID, "user": "a"},
        {"op": "renew"},
        {"op": "put", "user": USER, "if_below": 5},
    ]
    results = (await client.post("/guid:batch", {"operations": operations})).json["results"]

    assert [result["status"] for result in results] == [200, 200, 404, 412, 400, 400, 400]
    assert list(results[0]) == list(results[1]) == ["status", "guid", "etag", "renewal"]
    assert (results[0]["etag"], results[0]["renewal"]["renewed"]) == (created.headers["ETag"], False)
    assert results[1]["renewal"]["expire"] == in_seconds(clock, 600)
    assert results[4]["problem"]["detail"] == "`renew` takes no `user`."
    assert results[6]["problem"]["detail"] == "`put` takes no `if_below`."
    minimal = await client.post("/guid:batch", {"operations": operations[:1]}, headers={"Prefer": "return=minimal"})
    assert list(minimal.json["results"][0]) == ["status", "guid", "etag"]


async def test_validated_batch_renews_nothing(client: Client) -> None:
    created = await client.put(PATH, {"user": USER, "ttl": 60})
    operations = [{"op": "renew", "guid": GUID, "ttl": 600}, {"op": "get", "guid": GUID}]
    first, second = (await client.post("/guid:batch?validate_only=true", {"operations": operations})).json["results"]

    assert (first["renewal"]["renewed"], second["record"]["expire"]) == (True, first["renewal"]["expire"])
    assert (await client.get(PATH)).json == created.json


async def test_renewals_of_one_second_are_spread(serving: Serving, clock: FakeClock) -> None:
    ttl, fractions = 600, set()
    async with serving() as client:
        for number in range(200):
            path = f"/guid/{number:032X}"
            await client.put(path, {"user": USER, "ttl": 1})
            reply = await client.post(f"{path}/renewal", {"ttl": ttl})
            repeated = await client.post(f"{path}/renewal", {"ttl": ttl, "if_below": 1})
            assert repeated.json["renew_at"] == reply.json["renew_at"]
            fractions.add((int(reply.json["renew_at"]) * 1000 - clock.now) / (ttl * 1000))

    assert 0.5 <= min(fractions) < 0.52
    assert 0.68 < max(fractions) <= 0.702
    assert len(fractions) > 60


async def test_concurrent_renewals_write_once(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "ttl": 20})
    replies = await asyncio.gather(*(renew(client, ttl=60, if_below=30) for _ in range(30)))

    assert [reply.json["renewed"] for reply in replies].count(True) == 1
    assert {reply.json["expire"] for reply in replies} == {in_seconds(clock, 60)}


async def test_key_without_read_scope_learns_no_expiry(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination, access="keys", max_ttl=DAY) as client:
        async with open_keys(combination["store_url"]) as keys:
            key_texts = [await issue(keys, scopes) for scopes in ("read write", "write")]
        reader, writer = ({"Authorization": f"Bearer {text}"} for text in key_texts)
        created = await client.put(PATH, {"user": USER, "ttl": 60}, headers=reader)
        for members in BOTH:
            reply = await renew(client, writer, **members)
            assert (reply.status, reply.body, "ETag" in reply.headers) == (204, b"", True)
        for headers in (reader, writer):
            problem = assert_problem(await renew(client, headers, at_least=10**9), 409, "life-limit")
            assert ("expire" in problem) is (headers is reader)
        operations = [{"op": "renew", "guid": GUID, "ttl": 900}]
        for query, members_shown in (("", ["status", "guid", "etag"]), ("?validate_only=true", ["status", "guid"])):
            reply = await client.post(f"/guid:batch{query}", {"operations": operations}, headers=writer)
            assert list(reply.json["results"][0]) == members_shown
        assert created.status == 201


async def issue(keys: ApiKeyRepository, scopes: str) -> str:
    """Store a key with these scopes, and return its text."""
    key, text = api_key.generate("alice", scopes.split(), 0)
    assert await keys.swap(None, key)
    return text


async def test_renewals_are_counted_by_outcome(serving: Serving, combination: dict[str, str], clock: FakeClock) -> None:
    async with serving(**combination, max_life=100) as client:
        start = clock.seconds * 1000
        await client.put(PATH, {"user": USER, "ttl": 20})
        for second, members, outcome in (
            (5, {"ttl": 30}, "renewed"),
            (6, {"ttl": 30, "if_below": 10}, "unchanged"),
            (7, {"ttl": 5}, "unchanged"),
            (30, {"ttl": 80}, "capped"),
            (31, {"ttl": 80}, "limited"),
            (101, {"ttl": 80}, "expired"),
        ):
            counts = await outcomes(client)
            clock.now = start + second * 1000
            await renew(client, None, **members)
            assert await outcomes(client) == counts | {outcome: counts[outcome] + 1}


async def outcomes(client: Client) -> dict[str, float]:
    """Return the number of renewals by outcome."""
    lines = re.findall(
        r'guidsvc_renewals_total\{outcome="(\w+)"[^}]*\} (\S+)', (await client.get("/metrics")).body.decode()
    )
    return {name: float(count) for name, count in lines}
