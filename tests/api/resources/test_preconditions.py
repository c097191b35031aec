"""Preconditions (RFC 9110, 13), on each store and each cache."""

import asyncio

import pytest
from tornado.httputil import HTTPHeaders

from guidsvc.api.parsing.conditional import parse
from guidsvc.domain.preconditions import ANY, Conditions
from guidsvc.errors import InvalidRequest
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_failed, assert_problem
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply

pytestmark = pytest.mark.each_backend

PATH = f"/guid/{GUID}"
CLIENTS = 60
RACING = 10  # clients at a time: with more, clients would only lose more races


async def test_write_succeeds_if_the_version_matches(client: Client) -> None:
    first = await client.put(PATH, {"user": "a"})
    second = await client.put(PATH, {"user": "b"}, headers={"If-Match": first.headers["ETag"]})
    assert (second.status, second.json["user"]) == (200, "b")
    headers = {"If-Match": f'"1", {second.headers["ETag"]} ,,'}
    assert (await client.put(PATH, {"user": "c"}, headers=headers)).status == 200
    assert (await client.put(PATH, {"user": "d"}, headers={"If-Match": "*"})).status == 200
    tag = (await client.get(PATH)).headers["ETag"]
    assert (await client.delete(PATH, headers={"If-Match": tag})).status == 204


async def test_write_with_stale_version_fails_with_the_current_record(client: Client) -> None:
    old = await client.put(PATH, {"user": "a"})
    current = await client.put(PATH, {"user": "b"})
    for stale in ('"*"', old.headers["ETag"], f"W/{current.headers['ETag']}", '"1", "2"', '""'):
        assert_failed(await client.put(PATH, {"user": "c"}, headers={"If-Match": stale}), current)
        assert_failed(await client.delete(PATH, headers={"If-Match": stale}), current)
        assert_failed(await client.get(PATH, headers={"If-Match": stale}), current)
    assert (await client.get(PATH)).body == current.body


async def test_if_none_match_any_only_creates(client: Client) -> None:
    headers = {"If-None-Match": "*"}
    created = await client.put(PATH, {"user": "a"}, headers=headers)
    assert created.status == 201
    assert_failed(await client.put(PATH, {"user": "b"}, headers=headers), created)
    await client.delete(PATH)
    assert (await client.put(PATH, {"user": "c"}, headers=headers)).status == 201


async def test_one_of_a_hundred_conditional_creations_succeeds(client: Client) -> None:
    headers = {"If-None-Match": "*"}
    replies = await asyncio.gather(*(client.put(PATH, {"user": f"{n}"}, headers=headers) for n in range(100)))

    assert sorted(reply.status for reply in replies) == [201] + [412] * 99
    (winner,) = [reply for reply in replies if reply.status == 201]
    assert (await client.get(PATH)).body == winner.body


async def test_get_of_a_known_version_is_not_modified(client: Client) -> None:
    current = await client.put(PATH, {"user": "a"})
    tag = current.headers["ETag"]
    for tags in (tag, f"W/{tag}", f'"1", {tag}', "*"):
        for method in ("GET", "HEAD"):
            reply = await client.ask(method, PATH, headers={"If-None-Match": tags})
            assert (reply.status, reply.body) == (304, b"")
            for name in ("ETag", "Last-Modified", "Cache-Control"):
                assert reply.headers[name] == current.headers[name]
            assert "Content-Type" not in reply.headers
    assert (await client.get(PATH, headers={"If-None-Match": '"1"'})).body == current.body


async def test_write_with_if_none_match_fails_on_a_known_version(client: Client) -> None:
    current = await client.put(PATH, {"user": "a"})

    headers = {"If-None-Match": current.headers["ETag"]}
    assert_failed(await client.put(PATH, {"user": "b"}, headers=headers), current)
    assert_failed(await client.delete(PATH, headers=headers), current)
    assert (await client.put(PATH, {"user": "b"}, headers={"If-None-Match": '"1"'})).status == 200


async def test_absent_record_matches_nothing(client: Client) -> None:
    for value in ('"1"', "*"):
        assert_failed(await client.put(PATH, {"user": "a"}, headers={"If-Match": value}), None)
        assert_failed(await client.put(PATH, {"expire": 1}, headers={"If-Match": value}), None)
        assert_failed(await client.post("/guid", {"user": "a"}, headers={"If-Match": value}), None)
        assert_problem(await client.get(PATH, headers={"If-Match": value}), 404, "not-found")
        assert_problem(await client.delete(PATH, headers={"If-Match": value}), 404, "not-found")


async def test_expired_record_exists_until_retention_ends(client: Client, clock: FakeClock) -> None:
    expired = await client.put(PATH, {"user": "a", "expire": clock.seconds})
    assert_failed(await client.put(PATH, {"user": "b"}, headers={"If-None-Match": "*"}), expired)
    assert_problem(await client.get(PATH, headers={"If-None-Match": expired.headers["ETag"]}), 410, "expired")
    renewed = await client.put(PATH, {"expire": clock.seconds + 60}, headers={"If-Match": expired.headers["ETag"]})
    assert (renewed.status, renewed.json["user"]) == (200, "a")

    clock.advance(seconds=40 * 86_400)
    assert_failed(await client.put(PATH, {"user": "b"}, headers={"If-Match": renewed.headers["ETag"]}), None)
    assert (await client.put(PATH, {"user": "b"}, headers={"If-None-Match": "*"})).status == 201


async def test_record_of_a_failed_precondition_is_that_of_a_read(client: Client) -> None:
    """Byte for byte, however the client wrote its metadata; and it takes no time to decode."""
    body = b'{"user": "a", "metadata": {"a": 1.50, "b": [1e2, "\\u00e9"]}}'
    await client.ask("PUT", PATH, body=body, headers={"Content-Type": "application/json"})
    stored = await client.get(PATH)
    failed = await client.put(PATH, {"user": "b"}, headers={"If-Match": '"1"'})

    assert_problem(failed, 412, "precondition-failed")
    assert failed.body.endswith(b',"record":%b}\n' % stored.body.strip())


async def test_precondition_is_checked_before_expiry(client: Client, clock: FakeClock) -> None:
    """The status 410 depends on the body, so preconditions are evaluated first (RFC 9110, 13.2.1)."""
    revoked = await client.put(PATH, {"user": "a", "expire": clock.seconds})
    for method in ("PUT", "PATCH"):
        for failing_headers in (
            {"If-Match": '"1"'},
            {"If-None-Match": "*"},
            {"If-None-Match": revoked.headers["ETag"]},
        ):
            assert_failed(await client.ask(method, PATH, json={"user": "b"}, headers=failing_headers), revoked)
        for matching_headers in ({"If-Match": revoked.headers["ETag"]}, {"If-Match": "*"}, {"If-None-Match": '"1"'}):
            assert_problem(await client.ask(method, PATH, json={"user": "b"}, headers=matching_headers), 410, "expired")
        assert_problem(
            await client.ask(method, PATH, json={"expire": "x"}, headers={"If-Match": '"1"'}), 400, "invalid-request"
        )


@pytest.mark.slow
async def test_concurrent_increments_add_up(client: Client) -> None:
    await client.put(PATH, {"user": USER, "metadata": {"count": 0}})
    limiter = asyncio.Semaphore(RACING)

    async def add_one() -> None:
        async with limiter:
            await add(await client.get(PATH))

    async def add(reply: Reply) -> None:
        while True:
            metadata = {"count": reply.json.get("record", reply.json)["metadata"]["count"] + 1}
            reply = await client.put(PATH, {"metadata": metadata}, headers={"If-Match": reply.headers["ETag"]})
            if reply.status == 200:
                return
            assert_problem(reply, 412, "precondition-failed")  # contains the record for the next attempt

    await asyncio.gather(*(add_one() for _ in range(CLIENTS)))
    assert (await client.get(PATH)).json["metadata"] == {"count": CLIENTS}


async def test_precondition_can_be_required_for_changes(serving: Serving) -> None:
    async with serving(require_preconditions=True) as client:
        created = await client.put(PATH, {"user": "a"})
        assert created.status == 201
        assert_problem(await client.put(PATH, {"user": "b"}), 428, "precondition-required")
        assert_problem(await client.delete(PATH), 428, "precondition-required")
        assert (await client.get(PATH)).body == created.body
        assert (await client.put(PATH, {"user": "b"}, headers={"If-Match": created.headers["ETag"]})).status == 200
        assert (await client.delete(PATH, headers={"If-Match": "*"})).status == 204
        assert_problem(await client.delete(PATH), 404, "not-found")
        await client.put(PATH, {"user": "a", "expire": 0})
        assert_problem(await client.put(PATH, {"user": "b"}), 428, "precondition-required")


@pytest.mark.parametrize(
    "value", ["abc", '"a', "**", '*, "1"', '"1" "2"', 'w/"1"', "", " ", ",", '"a b"', "1795420608123"]
)
async def test_header_without_valid_tags_is_rejected_by_name(serving: Serving, value: str) -> None:
    async with serving() as client:
        created = await client.put(PATH, {"user": "a"})
        for name in ("If-Match", "If-None-Match"):
            body = assert_problem(await client.put(PATH, {"user": "b"}, headers={name: value}), 400, "invalid-request")
            assert [fault["header"] for fault in body["errors"]] == [name]  # type: ignore[attr-defined]
        assert (await client.get(PATH)).body == created.body


@pytest.mark.parametrize(
    ("match", "none_match", "expected"),
    [
        (None, None, Conditions()),
        ("*", None, Conditions(if_match=ANY)),
        ('"*"', None, Conditions(if_match=frozenset({"*"}))),
        (' "a" , W/"b",, "c,d"', None, Conditions(if_match=frozenset({"a", "c,d"}))),
        (None, 'W/"a","b"', Conditions(if_none_match=frozenset({"a", "b"}))),
        ('W/"a"', None, Conditions(if_match=frozenset())),
    ],
)
def test_headers_are_parsed_as_the_rfc_defines(match: str | None, none_match: str | None, expected: Conditions) -> None:
    headers = {"If-Match": match, "If-None-Match": none_match}

    assert parse(HTTPHeaders({name: value for name, value in headers.items() if value is not None})) == expected


@pytest.mark.parametrize("value", [" " * 60_000 + "x", ", " * 30_000 + "x", '"a",' * 15_000 + "x", '"' + "a" * 60_000])
def test_header_parsing_takes_bounded_time(value: str) -> None:
    with pytest.raises(InvalidRequest):
        parse(HTTPHeaders({"If-Match": value}))
