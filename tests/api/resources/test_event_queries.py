"""Queries of the event feed that the service rejects: parameters without effect, and filters that nothing can match."""

from urllib.parse import urlencode

import pytest

from guidsvc.api.parsing.query import MAX_VALUE_BYTES
from guidsvc.domain import api_key
from guidsvc.domain.record import MAX_USER_CHARACTERS
from guidsvc.store import open_keys
from tests.conftest import Serving
from tests.support.assertions import assert_problem
from tests.support.event_reader import LINES, SSE, now
from tests.support.http_client import Client

TYPES = "guid.created, guid.updated, guid.renewed, guid.deleted, guid.expiring, guid.expired, guid.purged"
HEAD_BYTES = 8 * 1024
"""The maximum size of the head of a response (docs/security.md)."""
NOT_LOGGED = "which this service does not log"


@pytest.mark.parametrize(
    ("query", "question"),
    [
        ("created", "; did you mean guid.created?"),
        ("guid.createt", "; did you mean guid.created?"),
        ("guid.created,Renewed", "; did you mean guid.renewed?"),
        ("", ""),
        ("x" * 1000, ""),
    ],
)
async def test_unknown_type_gets_a_suggestion(client: Client, query: str, question: str) -> None:
    reply = await client.get(f"/events?type={query}")
    assert_problem(reply, 400, "invalid-request")
    assert reply.json["errors"][0]["detail"] == f"must be one or more of {TYPES}, separated by commas{question}"


@pytest.mark.parametrize(
    ("query", "headers", "parameter", "fault"),
    [
        ("follow=false", SSE, "follow", "with Accept: text/event-stream, which always follows; leave it out"),
        ("wait=5", SSE, "wait", "on a stream that follows, which always waits; leave it out"),
        ("wait=5&follow=true", LINES, "wait", "on a stream that follows, which always waits; leave it out"),
        ("from=now&cursor=CURSOR", {}, "from", "beside `cursor`, which says where to begin; leave it out"),
        ("from=oldest&cursor=CURSOR", LINES, "from", "beside `cursor`, which says where to begin; leave it out"),
    ],
)
async def test_parameter_without_effect_is_rejected(
    client: Client, query: str, headers: dict[str, str], parameter: str, fault: str
) -> None:
    cursor = await now(client)
    reply = await client.get(f"/events?{query.replace('CURSOR', cursor)}", headers=headers)
    assert_problem(reply, 400, "invalid-request")
    assert reply.json["errors"] == [{"parameter": parameter, "detail": f"has no effect {fault}"}]


@pytest.mark.both_servers
async def test_head_of_a_response_has_a_bound(client: Client) -> None:
    """It repeats the query. A proxy with a small buffer for heads, such as nginx with 4 KiB, answers 502 instead."""
    longest = "1".zfill(MAX_VALUE_BYTES)
    parameters = {"user": "\U0001f600" * MAX_USER_CHARACTERS, "limit": longest, "wait": "0" * MAX_VALUE_BYTES}
    parameters |= {"type": TYPES.replace(" ", ""), "guid_prefix": "A" * 32, "from": "now"}
    head = {"X-Request-Id": "a" * 128, "Origin": f"https://{'a' * 200}.example"}
    reply = await client.get(f"/events?{urlencode(parameters)}", headers=head)

    assert reply.status == 200, reply.body
    assert longest in reply.headers["Link"]
    assert sum(len(f"{name}: {value}\r\n") for name, value in reply.headers.get_all()) < HEAD_BYTES


async def test_last_event_id_wins_over_from(client: Client) -> None:
    cursor = await now(client)
    reply = await client.get("/events?from=now", headers={"Last-Event-ID": cursor})
    assert reply.status == 200


async def test_type_that_is_never_logged_is_rejected(serving: Serving) -> None:
    async with serving(warn_before="") as client:
        reply = await client.get("/events?type=guid.created,guid.expiring")
        assert_problem(reply, 400, "invalid-request")
        setting = "an empty --warn-before"
        assert reply.json["detail"] == f"`type` selects guid.expiring, {NOT_LOGGED} ({setting}); leave that type out."
        assert (await client.get("/events?type=guid.created")).status == 200


async def test_type_that_is_logged_sometimes_is_accepted(serving: Serving) -> None:
    async with serving(events="changes") as client:  # the log has renewals of expired GUIDs
        assert (await client.get("/events?type=guid.renewed")).status == 200


async def test_disabled_feed_is_explained_and_not_linked(serving: Serving) -> None:
    async with serving(events="off") as client:
        problem = (await client.get("/events")).json
        assert problem["title"] == "Not permitted, or disabled"
        assert problem["detail"] == (
            "This service keeps no events, for any key: it runs with --events off. To keep them, start it with "
            "--events all, or --events changes."
        )
        assert "events" not in (await client.get("/")).json["links"]
        assert "/events" not in (await client.get("/", headers={"Accept": "text/html"})).body.decode()
    async with serving() as client:
        assert (await client.get("/")).json["links"]["events"] == "/events"
        assert "/events" in (await client.get("/", headers={"Accept": "text/html"})).body.decode()


@pytest.mark.parametrize("path", ["/guid", "/events"])
async def test_filter_by_another_owner_is_rejected_with_a_remedy(serving: Serving, sqlite_url: str, path: str) -> None:
    key, text = api_key.generate("alice", ["read"], 0)
    async with open_keys(sqlite_url) as keys:
        await keys.swap(None, key)
    async with serving(access="keys", store_url=sqlite_url) as client:
        reply = await client.get(f"{path}?owner=bob", headers={"Authorization": f"Bearer {text}"})
        assert_problem(reply, 403, "forbidden")
        assert reply.json["detail"].startswith(
            "`owner` names another owner than your own; leave it out to select what is yours. The key lacks the scope "
            "admin. To create a key that has it, run "
        )
        assert reply.headers["WWW-Authenticate"].endswith('error="insufficient_scope", scope="admin"')
