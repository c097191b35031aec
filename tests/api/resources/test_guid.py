"""The HTTP contract of `/guid` and `/guid/{guid}`, on each store and each cache, over real sockets."""

import asyncio
import re
from email.utils import formatdate

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem, pointers
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

pytestmark = pytest.mark.each_backend

PATH = f"/guid/{GUID}"
DAY = 86_400


# The user's specification, line by line


async def test_put_creates_with_given_guid_expiry_and_user(client: Client) -> None:
    reply = await client.put(PATH, {"expire": "1427736345", "user": USER})

    assert reply.status == 201
    assert reply.json == {"guid": GUID, "expire": "1427736345", "user": USER}
    assert reply.body == b'{"guid":"%b","expire":"1427736345","user":"Cylance, Inc."}\n' % GUID.encode()


async def test_put_without_guid_draws_one_for_30_days(client: Client, clock: FakeClock) -> None:
    reply = await client.put("/guid", {"user": USER})

    assert reply.status == 201
    assert list(reply.json) == ["guid", "expire", "user"]
    assert re.fullmatch("[0-9A-F]{32}", reply.json["guid"])
    assert reply.json["expire"] == str(clock.seconds + 30 * DAY)
    assert (await client.get(f"/guid/{reply.json['guid']}")).json == reply.json


async def test_get_returns_the_metadata(client: Client, clock: FakeClock) -> None:
    body = {"expire": str(clock.seconds + 60), "user": USER, "metadata": {"ö": [1, 1.5, None, "🜁"]}}
    await client.put(PATH, body)

    for _ in range(2):  # from the store, and from the cache
        reply = await client.get(PATH)
        assert reply.status == 200
        assert reply.json == {"guid": GUID} | body
        assert list(reply.json) == ["guid", "expire", "user", "metadata"]


async def test_put_updates_expiry_and_keeps_user(client: Client) -> None:
    await client.put(PATH, {"expire": "1427736345", "user": USER})
    reply = await client.put(PATH, {"expire": "1427822745"})

    assert reply.status == 200
    assert reply.json == {"guid": GUID, "expire": "1427822745", "user": USER}


async def test_delete_returns_no_body(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    reply = await client.delete(PATH)

    assert (reply.status, reply.body) == (204, b"")
    assert "Content-Type" not in reply.headers
    assert_problem(await client.get(PATH), 404, "not-found")


async def test_guid_cannot_be_changed(client: Client) -> None:
    await client.put(PATH, {"user": USER})

    assert pointers(await client.put(PATH, {"guid": "0" * 32})) == ["/guid"]
    assert (await client.get(PATH)).status == 200


# Methods


async def test_creation_returns_location(client: Client) -> None:
    chosen = await client.put(PATH, {"user": USER})
    drawn = await client.post("/guid", {"user": USER})

    assert (chosen.status, chosen.headers["Location"]) == (201, PATH)
    assert (drawn.status, drawn.headers["Location"]) == (201, f"/guid/{drawn.json['guid']}")
    assert "Location" not in (await client.put(PATH, {"user": "another"})).headers


async def test_record_that_was_read_can_be_put_back(client: Client) -> None:
    created = await client.put(PATH, {"user": USER, "metadata": {"a": 1}})
    current = await client.get(PATH)
    reply = await client.put(PATH, current.json)

    assert (reply.status, reply.body) == (200, created.body)
    assert reply.headers["ETag"] == created.headers["ETag"], "nothing was changed"


async def test_put_replaces_metadata_and_empty_object_removes_it(client: Client) -> None:
    await client.put(PATH, {"user": USER, "metadata": {"a": 1, "b": 2}})

    assert (await client.put(PATH, {"metadata": {"c": 3}})).json["metadata"] == {"c": 3}
    assert "metadata" not in (await client.put(PATH, {"metadata": {}})).json


async def test_etag_is_the_version_and_rises_with_every_change(client: Client, clock: FakeClock) -> None:
    tags = [(await client.put(PATH, {"user": user})).headers["ETag"] for user in ("a", "b", "b", "c")]

    assert all(re.fullmatch(r'"[0-9]+"', tag) for tag in tags)
    versions = [int(tag.strip('"')) for tag in tags]
    assert versions == [clock(), clock() + 1, clock() + 1, clock() + 2]
    assert (await client.get(PATH)).headers["ETag"] == tags[-1]


async def test_version_rises_across_delete_and_creation(client: Client) -> None:
    first = await client.put(PATH, {"user": USER})
    second = await client.put(PATH, {"user": "another"})
    await client.delete(PATH)
    third = await client.put(PATH, {"user": USER})

    assert first.headers["ETag"] < second.headers["ETag"] < third.headers["ETag"]


async def test_record_reply_has_its_headers(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER})
    reply = await client.get(PATH)

    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Last-Modified"] == formatdate(clock.seconds, usegmt=True)
    assert reply.headers["Cache-Control"] == "private, no-cache"
    assert reply.headers["Content-Length"] == str(len(reply.body))


async def test_full_view_adds_state_of_the_record(client: Client, clock: FakeClock) -> None:
    created = await client.put(f"{PATH}?view=full", {"user": USER, "metadata": {"a": 1}})
    state = {
        "created": str(clock()),
        "updated": str(clock()),
        "version": str(clock()),
        "purge_at": str(clock.seconds + 37 * DAY),
        "renew_at": created.json["renew_at"],
        "max_expire": None,
        "state": "live",
        "owner": "",
    }
    assert 15 * DAY <= int(state["renew_at"]) - clock.seconds <= 21 * DAY
    assert list(created.json) == ["guid", "expire", "user", "metadata", *state]
    assert created.json == (await client.get(PATH)).json | state
    assert (await client.get(f"{PATH}?view=full")).body == created.body

    clock.advance(seconds=1)
    revoked = (await client.ask("PATCH", f"{PATH}?view=full", json={"expire": 0})).json
    assert (revoked["created"], revoked["updated"]) == (state["created"], str(clock()))
    assert (revoked["state"], revoked["purge_at"]) == ("expired", str(clock.seconds + 7 * DAY))
    assert_problem(await client.get(f"{PATH}?view=full"), 410, "expired")


async def test_write_with_prefer_minimal_has_no_body(client: Client) -> None:
    minimal = {"Prefer": "respond-async, Return = Minimal; x=y"}
    created = await client.put(PATH, {"user": USER}, headers=minimal)
    drawn = await client.post("/guid", {"user": USER}, headers=minimal)
    updated = await client.put(PATH, {"user": "another"}, headers={"Prefer": 'return="minimal"'})
    patched = await client.ask("PATCH", PATH, json={"user": "a third"}, headers={"Prefer": "return=minimal"})

    assert [reply.status for reply in (created, drawn, updated, patched)] == [201, 201, 204, 204]
    for reply in (created, drawn, updated, patched):
        assert (reply.body, reply.headers["Preference-Applied"]) == (b"", "return=minimal")
        assert "ETag" in reply.headers
        assert "Content-Type" not in reply.headers
    assert created.headers["Location"] == PATH
    assert (await client.get(PATH, headers=minimal)).json["user"] == "a third"
    for preference in ("return=representation", "xreturn=minimal", "return=minimally", ""):
        reply = await client.put(PATH, {"user": USER}, headers={"Prefer": preference})
        assert (reply.status, "Preference-Applied" in reply.headers) == (200, False)


async def test_head_equals_get_without_body(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    get, head = await client.get(PATH), await client.ask("HEAD", PATH)

    assert (head.status, head.body) == (200, b"")
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Length", "Cache-Control"):
        assert head.headers[name] == get.headers[name]
    missing = await client.ask("HEAD", f"/guid/{'0' * 32}")
    assert (missing.status, missing.body) == (404, b"")


async def test_options_lists_allowed_methods(client: Client) -> None:
    for path, allowed in ((PATH, "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"), ("/guid", "GET, HEAD, POST, PUT, OPTIONS")):
        reply = await client.ask("OPTIONS", path)
        assert (reply.status, reply.body, reply.headers["Allow"]) == (204, b"", allowed)


async def test_unsupported_method_is_rejected_with_allow(client: Client) -> None:
    for method, path in (("POST", PATH), ("PATCH", "/guid"), ("DELETE", "/guid"), ("TRACE", PATH)):
        reply = await client.ask(method, path)
        assert_problem(reply, 405, "method-not-allowed")
        assert "PUT" in reply.headers["Allow"]


async def test_unknown_method_is_not_implemented(client: Client) -> None:
    for method in ("BREW", "PROPFIND", "get", "FOO"):
        for path in (PATH, "/guid", "/livez", "/guid:batch"):
            assert_problem(await client.ask(method, path), 501, "not-implemented")


async def test_delete_of_unknown_guid_is_not_found(client: Client) -> None:
    assert_problem(await client.delete(PATH), 404, "not-found")


async def test_expired_record_can_be_deleted(client: Client) -> None:
    await client.put(PATH, {"user": USER, "expire": 0})

    assert (await client.delete(PATH)).status == 204
    assert_problem(await client.get(PATH), 404, "not-found")


# The life of a GUID


async def test_unknown_guid_is_not_found(client: Client) -> None:
    assert_problem(await client.get(PATH), 404, "not-found")


async def test_past_expiry_revokes_at_once(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER})
    assert (await client.get(PATH)).status == 200
    reply = await client.put(PATH, {"expire": "1427736345"})
    assert (reply.status, reply.json["expire"]) == (200, "1427736345")

    body = assert_problem(await client.get(PATH), 410, "expired")
    assert body["expired_at"] == "1427736345"
    assert body["renewable_until"] == str(clock.seconds + 7 * DAY)


async def test_cached_record_expires(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "expire": clock.seconds + 60})
    clock.advance(seconds=59.999)
    assert (await client.get(PATH)).status == 200
    assert (await client.get(PATH)).status == 200
    clock.advance(seconds=0.001)
    assert_problem(await client.get(PATH), 410, "expired")


async def test_update_renews_expired_record_for_default_lifetime(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "expire": clock.seconds + 1})
    clock.advance(seconds=1)
    assert_problem(await client.get(PATH), 410, "expired")
    reply = await client.put(PATH, {"metadata": {"renewed": True}})

    assert (reply.status, reply.json["user"]) == (200, USER)
    assert reply.json["expire"] == str(clock.seconds + 30 * DAY)
    assert (await client.get(PATH)).status == 200


async def test_revoked_record_stays_expired_until_new_expiry(client: Client, clock: FakeClock) -> None:
    """Whether a live record was revoked or it was created with a past expiry, after any number of changes."""
    for revoke in ({"expire": 0}, {"user": USER, "expire": clock.seconds}):
        await client.put(PATH, {"user": USER})
        revoked = await client.put(PATH, revoke)
        assert revoked.status == 200
        for method, body in (
            ("PUT", {}),
            ("PUT", {"user": USER}),
            ("PATCH", {"metadata": {"note": "x"}}),
            ("PATCH", {}),
        ):
            problem = assert_problem(await client.ask(method, PATH, json=body), 410, "expired")
            assert "revoked, or created with a past expiry" in str(problem["detail"])
            assert 'PUT or PATCH it with a future "expire"' in str(problem["detail"])
            assert problem["renewable_until"] == str(clock.seconds + 7 * DAY)
        assert (await client.put(PATH, {"user": "b", "expire": 1})).status == 200, (
            "the change is applied, and the record stays revoked"
        )
        assert_problem(await client.put(PATH, {"user": "c"}), 410, "expired")
        renewed = await client.ask("PATCH", PATH, json={"expire": clock.seconds + 60})
        assert (renewed.status, renewed.json["user"]) == (200, "b")
        assert (await client.get(PATH)).body == renewed.body
        await client.delete(PATH)
    assert (await client.put(PATH, {"user": USER, "expire": 1})).status == 201
    assert_problem(await client.put(PATH, {"user": USER}), 410, "expired")
    clock.advance(seconds=7 * DAY)
    assert (await client.put(PATH, {"user": USER})).status == 201, "after its retention it is a new record"


async def test_revocation_is_not_undone_by_a_racing_change(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    changes = [client.ask(("PUT", "PATCH")[number % 2], PATH, json={"metadata": {"a": number}}) for number in range(20)]
    replies = await asyncio.gather(*changes[:10], client.put(PATH, {"expire": 0}), *changes[10:])

    assert replies[10].status == 200
    assert {reply.status for reply in replies} <= {200, 410}
    assert_problem(await client.get(PATH), 410, "expired")


async def test_guid_past_retention_is_not_found_and_can_be_recreated(client: Client, clock: FakeClock) -> None:
    await client.put(PATH, {"user": USER, "expire": clock.seconds + 60})
    clock.advance(seconds=60 + 7 * DAY)

    assert_problem(await client.get(PATH), 404, "not-found")
    assert_problem(await client.delete(PATH), 404, "not-found")
    assert pointers(await client.put(PATH, {"expire": "1"})) == ["/user"]
    assert (await client.put(PATH, {"user": "another"})).status == 201


async def test_one_of_a_hundred_concurrent_creations_gets_201(client: Client) -> None:
    replies = await asyncio.gather(*(client.put(PATH, {"user": f"rival {number}"}) for number in range(100)))

    assert sorted(reply.status for reply in replies) == [200] * 99 + [201]
    assert len({reply.headers["ETag"] for reply in replies}) == 100, "each creates a version of its own"
    last = max(replies, key=lambda reply: reply.headers["ETag"])
    assert (await client.get(PATH)).body == last.body


async def test_one_of_concurrent_deletions_gets_204(client: Client) -> None:
    await client.put(PATH, {"user": USER})
    replies = await asyncio.gather(*(client.delete(PATH) for _ in range(20)))

    assert sorted(reply.status for reply in replies) == [204] + [404] * 19


# Parsing of path and body, which does not depend on store and cache


@pytest.fixture
def default_service(serving: Serving) -> Serving:
    """The service with its default settings."""
    return serving


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_path_without_guid_is_rejected(default_service: Serving, method: str) -> None:
    async with default_service() as client:
        wide = "%EF%AC%80" * 16  # str.upper converts it to 32 times F
        for text in (GUID.lower(), GUID[:-1], GUID + "0", "G" * 32, "%00", "%FF", "a%2Fb", "%0A" + GUID, wide):
            reply = await client.ask(method, f"/guid/{text}", json={"user": USER} if method == "PUT" else None)
            assert reply.status == 400, text
            if method != "HEAD":
                assert_problem(reply, 400, "invalid-guid")


async def test_guid_in_other_notation_is_rejected_with_a_suggestion(default_service: Serving) -> None:
    async with default_service() as client:
        for text in (
            GUID.lower(),
            "9094e4c9-80c7-4043-a4b5-86b420e69ddf",
            "%7B9094E4C9-80C7-4043-A4B5-86B420E69DDF%7D",
        ):
            assert GUID in str(assert_problem(await client.get(f"/guid/{text}"), 400, "invalid-guid")["detail"])


async def test_new_record_needs_a_user(default_service: Serving) -> None:
    async with default_service() as client:
        assert pointers(await client.put(PATH, {"expire": "1"})) == ["/user"]
        assert pointers(await client.put("/guid", {})) == ["/user"]
        assert pointers(await client.post("/guid", {"expire": -1})) == ["/expire", "/user"]


async def test_body_errors_are_reported_together_and_change_nothing(default_service: Serving) -> None:
    async with default_service() as client:
        created = await client.put(PATH, {"user": USER})
        invalid = {"expire": True, "user": " ", "metadata": None, "guid": "x", "a/b": 1}

        assert pointers(await client.put(PATH, invalid)) == ["/expire", "/user", "/guid", "/metadata", "/a~1b"]
        assert (await client.get(PATH)).headers["ETag"] == created.headers["ETag"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"user": "x",}', b'{"user": NaN}', b"[]", b'"x"', b"\xff", b"{}{}"])
async def test_body_that_is_no_json_object_is_rejected(default_service: Serving, body: bytes) -> None:
    async with default_service() as client:
        assert pointers(await client.put(PATH, body=body)) == [""]


async def test_body_of_64_kib_is_accepted_and_one_byte_more_rejected(default_service: Serving) -> None:
    async with default_service() as client:
        fits = b'{"user":"x"}'.ljust(65_536)
        assert (await client.put(PATH, body=fits)).status == 201
        assert_problem(await client.put(PATH, body=fits + b" "), 413, "too-large")
        assert_problem(await client.put(PATH, body=fits * 20), 413, "too-large")


JSON_TYPES = [
    "application/json",
    "Application/JSON",
    "application/json; charset=utf-8",
    'application/json;charset="UTF-8"',
]
OTHER_TYPES = ["text/plain", "application/xml", "application/json; charset=latin-1", "multipart/form-data", "json", ";"]
CURL = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", [*JSON_TYPES, CURL, None])
async def test_put_accepts_json_curl_default_and_no_content_type(
    default_service: Serving, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    async with default_service() as client:
        assert (await client.put(PATH, body=b'{"user": "x"}', headers=headers)).status == 201


@pytest.mark.parametrize("content_type", OTHER_TYPES)
async def test_unsupported_content_type_is_rejected(default_service: Serving, content_type: str) -> None:
    async with default_service() as client:
        for method, path in (("PUT", PATH), ("PUT", "/guid"), ("POST", "/guid")):
            reply = await client.ask(method, path, body=b'{"user": "x"}', headers={"Content-Type": content_type})
            assert_problem(reply, 415, "unsupported-media-type")
            assert reply.headers["Accept"] == "application/json"


@pytest.mark.parametrize("content_type", [CURL, None])
async def test_cross_site_form_post_is_rejected(default_service: Serving, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    async with default_service() as client:
        assert_problem(
            await client.post("/guid", body=b'{"user": "x"}', headers=headers), 415, "unsupported-media-type"
        )
        assert (await client.post("/guid", {"user": "x"})).status == 201


async def test_body_with_content_encoding_is_rejected(default_service: Serving) -> None:
    async with default_service() as client:
        encoded = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        assert_problem(await client.put(PATH, body=b"...", headers=encoded), 415, "unsupported-media-type")


async def test_unknown_query_parameter_is_rejected_by_name(default_service: Serving) -> None:
    async with default_service() as client:
        await client.put(PATH, {"user": USER})
        body = assert_problem(await client.get(f"{PATH}?color=red"), 400, "invalid-request")
        detail = "is not a known query parameter; remove it. The known parameters are `valid_for` and `view`"
        assert body["errors"] == [{"parameter": "color", "detail": detail}]
        for invalid_query in ("view=all", "view=", "view=full&view=full", "View=full"):
            body = assert_problem(await client.get(f"{PATH}?{invalid_query}"), 400, "invalid-request")
            assert [fault["parameter"] for fault in body["errors"]] == [invalid_query[:4]]  # type: ignore[attr-defined]
        assert_problem(await client.delete(f"{PATH}?view=full"), 400, "invalid-request")
        assert (await client.get(PATH)).status == 200
        body = assert_problem(await client.put("/guid?%c3%b6=1&=2&view=full", {"user": USER}), 400, "invalid-request")
        assert isinstance(body["errors"], list)
        assert [fault["parameter"] for fault in body["errors"]] == ["ö", ""]


async def test_setting_chooses_how_guids_are_drawn(default_service: Serving, clock: FakeClock) -> None:
    for version in ("4", "7"):
        async with default_service(guid_version=version) as client:
            guids = [(await client.post("/guid", {"user": USER})).json["guid"] for _ in range(5)]
        assert {guid[12] for guid in guids} == {version}
        assert len(set(guids)) == 5
        assert (f"{clock():012X}" == guids[0][:12]) == (version == "7")


async def test_lifetime_and_retention_are_settings(default_service: Serving, clock: FakeClock) -> None:
    async with default_service(lifetime=60, retention=30) as client:
        assert (await client.put(PATH, {"user": USER})).json["expire"] == str(clock.seconds + 60)
        clock.advance(seconds=60)
        body = assert_problem(await client.get(PATH), 410, "expired")
        assert body["renewable_until"] == str(clock.seconds + 30)


async def test_integer_in_metadata_has_at_most_4300_digits(client: Client) -> None:
    body = b'{"user": "x", "metadata": {"n": %b}}'
    assert (await client.put(PATH, body=body % (b"9" * 4300))).status == 201
    assert b"9" * 4300 in (await client.get(PATH)).body
    assert_problem(await client.put(PATH, body=body % (b"9" * 4301)), 400, "invalid-request")


async def test_missing_user_is_reported_when_no_member_is_invalid(client: Client) -> None:
    """As documented in docs/summary.md and docs/api.md: only the write knows whether a PUT creates."""
    for body, expected in (({"colour": 1, "expire": "x"}, {"/colour", "/expire"}), ({}, {"/user"})):
        reply = await client.put(f"/guid/{GUID}", body)
        assert_problem(reply, 400, "invalid-request")
        assert {error["pointer"] for error in reply.json["errors"]} == expected
    reply = await client.put("/guid", {"colour": 1})
    assert {error["pointer"] for error in reply.json["errors"]} == {"/colour", "/user"}


async def test_errors_of_a_first_request_say_what_to_send(client: Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = await client.post("/guid", body=b'{"user": "x"}', headers=form)
    assert_problem(reply, 415, "unsupported-media-type")
    assert reply.json["detail"].endswith("(curl: -H 'Content-Type: application/json').")
    reply = await client.post("/guid", body=b"", headers={"Content-Type": "application/json"})
    assert [error["detail"] for error in reply.json["errors"]] == [
        'is empty; send a JSON object, such as {"user": "Cylance, Inc."}'
    ]
