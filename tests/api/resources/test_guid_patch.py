"""PATCH: a JSON merge patch (RFC 7396), on each store and each cache."""

import json
from typing import Any

import pytest

from guidsvc.domain.commands.merge_patch import merge
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_failed, assert_problem, pointers
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

pytestmark = pytest.mark.each_backend

PATH = f"/guid/{GUID}"
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


async def test_patch_merges_members_and_null_removes(client: Client) -> None:
    await client.put(PATH, {"user": USER, "expire": "4000000000", "metadata": {"a": 1, "b": {"c": 2, "d": 3}}})
    patch = {"user": "another", "metadata": {"a": None, "b": {"c": None, "e": [None]}, "f": {"g": None}}}
    reply = await client.ask("PATCH", PATH, json=patch, headers=MERGE_PATCH)

    assert reply.status == 200
    assert reply.json == {
        "guid": GUID,
        "expire": "4000000000",
        "user": "another",
        "metadata": {"b": {"d": 3, "e": [None]}, "f": {}},
    }
    assert (await client.get(PATH)).body == reply.body


async def test_metadata_set_to_null_or_emptied_is_removed(client: Client) -> None:
    removals: list[dict[str, None] | None] = [None, {"a": None}]
    for patch in removals:
        await client.put(PATH, {"user": USER, "metadata": {"a": 1}})
        assert "metadata" not in (await client.ask("PATCH", PATH, json={"metadata": patch})).json
    assert (await client.ask("PATCH", PATH, json={"metadata": {"b": {"c": 1}}})).json["metadata"] == {"b": {"c": 1}}


async def test_patch_without_change_keeps_the_version(client: Client) -> None:
    created = await client.put(PATH, {"user": USER, "metadata": {"a": 1}})
    same: list[dict[str, object]] = [{}, {"user": USER}, {"metadata": {}}, {"metadata": {"b": None}}, {"guid": GUID}]
    for patch in same:
        reply = await client.ask("PATCH", PATH, json=patch)
        assert (reply.status, reply.headers["ETag"]) == (200, created.headers["ETag"])


async def test_patch_never_creates(client: Client) -> None:
    assert_problem(await client.ask("PATCH", PATH, json={"user": USER}), 404, "not-found")
    assert_problem(await client.get(PATH), 404, "not-found")


async def test_patch_renews_expired_record_only_with_an_expiry(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "expire": clock.seconds + 1})
    clock.advance(seconds=1)
    for patch in ({"metadata": {"a": 1}}, {"user": "b"}, {"user": USER}, {}):
        problem = assert_problem(await client.ask("PATCH", PATH, json=patch), 410, "expired")
        assert 'PUT it, or PATCH it with a future "expire"' in str(problem["detail"])
    reply = await client.ask("PATCH", PATH, json={"expire": clock.seconds + 60, "metadata": {"a": 1}})

    assert (reply.status, reply.json["expire"]) == (200, str(clock.seconds + 60))
    clock.advance(seconds=40 * 86_400)
    assert_problem(await client.ask("PATCH", PATH, json={}), 404, "not-found")


async def test_patch_obeys_preconditions(client: Client) -> None:
    old = await client.put(PATH, {"user": "a"})
    current = await client.put(PATH, {"user": "b"})
    stale = {"If-Match": old.headers["ETag"]}

    assert_failed(await client.ask("PATCH", PATH, json={"user": "c"}, headers=stale), current)
    fresh = {"If-Match": current.headers["ETag"]}
    assert (await client.ask("PATCH", PATH, json={"user": "c"}, headers=fresh)).status == 200


async def test_invalid_patch_is_rejected_and_changes_nothing(client: Client) -> None:
    big = {"metadata": {"a": "x" * 16_000}}
    created = await client.put(PATH, {"user": USER} | big)
    for patch, where in (
        ({"expire": None, "user": None, "guid": None}, ["/expire", "/user", "/guid"]),
        ({"metadata": [], "color": 1}, ["/metadata", "/color"]),
        ({"metadata": "x"}, ["/metadata"]),
        ({"guid": "0" * 32}, ["/guid"]),
        ({"metadata": {"b": "x" * 1000}}, ["/metadata"]),
        ({"metadata": {"a": json.loads('{"a":' * 8 + "1" + "}" * 8)}}, ["/metadata"]),
    ):
        assert pointers(await client.ask("PATCH", PATH, json=patch)) == where
    assert pointers(await client.ask("PATCH", PATH, body=b'{"metadata": {"a": 1e400}}')) == ["/metadata"]
    assert (await client.get(PATH)).body == created.body


async def test_patch_of_unsupported_type_is_rejected_with_accept_patch(serving: Serving) -> None:
    async with serving() as client:
        await client.put(PATH, {"user": USER})
        for content_type in ("application/json-patch+json", "text/plain"):
            reply = await client.ask("PATCH", PATH, body=b"{}", headers={"Content-Type": content_type})
            assert_problem(reply, 415, "unsupported-media-type")
            assert reply.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
        for known in (MERGE_PATCH, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
            assert (await client.ask("PATCH", PATH, body=b"{}", headers=known)).status == 200
        put = await client.ask("PUT", PATH, body=b"{}", headers=MERGE_PATCH)
        assert_problem(put, 415, "unsupported-media-type")


async def test_patch_can_require_a_precondition(serving: Serving) -> None:
    async with serving(require_preconditions=True) as client:
        await client.put(PATH, {"user": USER})
        assert_problem(await client.ask("PATCH", PATH, json={"user": "b"}), 428, "precondition-required")


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps(target)

    assert merge(target, patch) == result
    assert json.dumps(target) == before


async def test_options_list_patch_types(client: Client) -> None:
    reply = await client.ask("OPTIONS", PATH)
    assert reply.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
    assert "PATCH" in reply.headers["Allow"]
    assert "Accept-Patch" not in (await client.ask("OPTIONS", "/guid")).headers
