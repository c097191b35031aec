"""The HTTP contract of `/keys`, on each store and each cache, over real sockets."""

import json
import logging
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any
from unittest.mock import ANY

import pytest

from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import MAX_OVERLAP_SECONDS, OVERLAP_SECONDS
from guidsvc.domain.caller import SCOPES
from guidsvc.domain.commands import MAX_PAGE_SIZE
from guidsvc.store import open_keys
from tests.conftest import FakeClock, Serving
from tests.support.api_document import DOCUMENT, check
from tests.support.assertions import assert_problem, pointers
from tests.support.http_client import Client, Reply
from tests.support.secured_service import Credential, KeyClient, SecuredService, stored_rows, wait_for_status

pytestmark = pytest.mark.each_backend

KEY = re.compile(r"gs_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}")
ALICE = {"owner": "alice", "scopes": ["write", "read"]}
JSON = {"Content-Type": "application/json"}
UNKNOWN = "0" * keys.ID_CHARACTERS


class Admin(SecuredService):
    """A service, called with the key of an admin."""

    credential: Credential

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        """Send a request with the admin's key."""
        return await KeyClient(self.client, self.credential).ask(method, path, **options)

    async def create(self, **members: object) -> dict[str, Any]:
        """Create a key; return the body of the response."""
        reply = await self.ask("POST", "/keys", json=ALICE | members)
        assert reply.status == 201
        created: dict[str, Any] = reply.json
        return created

    def as_holder(self, created: dict[str, Any]) -> KeyClient:
        """Return a client that uses a key of an earlier response."""
        return KeyClient(self.client, Credential(None, created["key"]))  # type: ignore[arg-type]  # only the text is needed


@pytest.fixture
async def admin(serving: Serving, combination: dict[str, str], clock: FakeClock) -> AsyncIterator[Admin]:
    async with serving(**combination, access="keys") as client:
        admin = Admin(client, combination["store_url"], clock)
        admin.credential = await admin.create_key("root", "admin")
        yield admin


def schema(path: str, method: str, status: int) -> dict[str, Any]:
    """Return the documented schema of a response body."""
    content: dict[str, Any] = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]
    body_schema: dict[str, Any] = content["application/json"]["schema"]
    return body_schema


async def test_created_key_is_shown_once_and_works_at_once(admin: Admin) -> None:
    reply = await admin.ask("POST", "/keys", json=ALICE | {"expire": "4102444800"})

    assert reply.status == 201
    created = reply.json
    assert list(created) == ["id", "owner", "scopes", "created", "expire", "state", "key"]
    assert created == {
        "id": ANY,
        "owner": "alice",
        "scopes": ["read", "write"],
        "created": str(admin.clock()),
        "expire": "4102444800",
        "state": "live",
        "key": ANY,
    }
    assert KEY.fullmatch(created["key"])
    assert created["key"].startswith(f"gs_{created['id']}_")
    assert reply.headers["Location"] == f"/keys/{created['id']}"
    assert reply.headers["Cache-Control"] == "no-store"
    check(created, schema("/keys", "post", 201))
    assert (await admin.as_holder(created).ask("PUT", "/guid", json={"user": "u"})).status == 201
    assert (await admin.as_holder(created).ask("GET", "/keys")).status == 403
    reread = await admin.ask("GET", reply.headers["Location"])
    assert reread.status == 200
    check(reread.json, schema("/keys/{id}", "get", 200))
    assert {name: value for name, value in reread.json.items() if name != "used"} == {
        name: value for name, value in created.items() if name != "key"
    }
    head = await admin.ask("HEAD", reply.headers["Location"])
    assert (head.status, head.body) == (200, b"")


async def test_keys_are_for_admins(admin: Admin) -> None:
    created = await admin.create(scopes=["read", "write", "delete"])
    for method, path in (
        ("GET", "/keys"),
        ("HEAD", "/keys"),
        ("POST", "/keys"),
        ("GET", f"/keys/{created['id']}"),
        ("PATCH", f"/keys/{created['id']}"),
        ("DELETE", f"/keys/{created['id']}"),
        ("POST", f"/keys/{created['id']}/rotation"),
    ):
        body = ALICE if method == "POST" else None
        assert (await admin.client.ask(method, path, json=body)).status == 401
        reply = await admin.as_holder(created).ask(method, path, json=body)
        assert reply.status == 403
        assert 'scope="admin"' in reply.headers["WWW-Authenticate"]
    for path in ("/keys", "/keys/x", "/keys/x/rotation"):
        assert (await admin.client.ask("OPTIONS", path)).status == 204
    assert (await admin.ask("GET", f"/keys/{created['id']}")).json["state"] == "live"


async def test_keys_are_unreachable_with_access_off(serving: Serving, combination: dict[str, str]) -> None:
    """An invalid body gets the same response, so a client learns nothing about it."""
    async with serving(**combination) as client:
        for method, path in (
            ("GET", "/keys"),
            ("POST", "/keys"),
            ("GET", f"/keys/{UNKNOWN}"),
            ("PATCH", f"/keys/{UNKNOWN}"),
            ("DELETE", f"/keys/{UNKNOWN}"),
            ("POST", f"/keys/{UNKNOWN}/rotation"),
        ):
            for body in (None, {}, ALICE):
                reply = await client.ask(method, path, json=body)
                problem = assert_problem(reply, 403, "forbidden")
                assert "use the command guidsvc keys" in str(problem["detail"])
                assert "WWW-Authenticate" not in reply.headers
    async with open_keys(combination["store_url"]) as key_repository:
        assert await key_repository.list("", 1) == []


async def test_walk_through_the_list_meets_every_key_once(admin: Admin) -> None:
    expected = sorted([admin.credential.key.id, *[(await admin.create())["id"] for _ in range(6)]])
    path, pages = "/keys?limit=3", []
    while path:
        reply = await admin.ask("GET", path)
        assert reply.status == 200
        check(reply.json, schema("/keys", "get", 200))
        pages.append([item["id"] for item in reply.json["items"]])
        link = reply.headers.get("Link", "")
        assert (reply.json["next"] is None) == (not link)
        path = link.partition(">")[0].removeprefix("<")
        assert path == ("" if not link else f"/keys?limit=3&cursor={reply.json['next']}")
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [key_id for page in pages for key_id in page] == expected
    full_page = await admin.ask("GET", f"/keys?limit={MAX_PAGE_SIZE + 1}")
    assert (full_page.json["next"], len(full_page.json["items"])) == (None, 7)
    assert all(first["id"] < second["id"] for first, second in pairwise(full_page.json["items"]))


async def test_list_of_keys_is_filtered(admin: Admin) -> None:
    """By owner, by state, and by part of the note or the start of the id; also combined, and across pages."""
    build = await admin.create(note="the Build server")
    billing = await admin.create(owner="bob", note="billing, \u00c9t\u00e9")
    plain = await admin.create(owner="bob", expire=admin.clock.seconds + 60)
    revoked = await admin.create(owner="bob", note="old billing")
    assert (await admin.ask("DELETE", f"/keys/{revoked['id']}")).status == 204
    admin.clock.advance(seconds=60)

    for query, expected in (
        ("owner=bob", [billing, plain, revoked]),
        ("owner=bo", []),
        ("q=bILl", [billing, revoked]),
        ("q=%C3%A9T%C3%89", [billing]),
        ("q=server", [build]),
        (f"q={plain['id'][:11]}", [plain]),
        (f"q={plain['id'][1:]}", []),
        ("state=revoked", [revoked]),
        ("state=expired", [plain]),
        ("state=live&owner=bob", [billing]),
        ("state=live&owner=bob&q=old", []),
    ):
        ids = sorted(key["id"] for key in expected)
        path, listed_ids = f"/keys?limit=2&{query}", list[str]()
        while path:
            reply = await admin.ask("GET", path)
            assert reply.status == 200
            assert (reply.json["next"] is None) == (len(listed_ids) + len(reply.json["items"]) == len(ids)), query
            listed_ids += [item["id"] for item in reply.json["items"]]
            path = reply.headers.get("Link", "").partition(">")[0].removeprefix("<")
        assert listed_ids == ids, query


@pytest.mark.parametrize(
    "path",
    [
        "/keys?limit=0",
        "/keys?cursor=x",
        f"/keys?cursor={UNKNOWN}%0A",
        "/keys?owner=",
        "/keys?q=",
        f"/keys?q={'n' * 201}",
        "/keys?state=valid",
        "/keys?scopes=read",
    ],
)
async def test_invalid_list_query_is_reported(serving: Serving, clock: FakeClock, sqlite_url: str, path: str) -> None:
    async with serving(access="keys") as client:
        admin = SecuredService(client, sqlite_url, clock)
        reply = await (await admin.key_client("root", "admin")).ask("GET", path)
        problem = assert_problem(reply, 400, "invalid-request")
        assert [fault["parameter"] for fault in problem["errors"]] == [re.split("[?=]", path)[1]]  # type: ignore[attr-defined]


INVALID_KEYS: list[tuple[object, list[str]]] = [
    ({}, ["/owner", "/scopes"]),
    ({"owner": " ", "scopes": [], "expire": None, "key": "gs_"}, ["/owner", "/scopes", "/expire", "/key"]),
    (ALICE | {"owner": "a" * 257}, ["/owner"]),
    (ALICE | {"owner": None, "scopes": None}, ["/owner", "/scopes"]),
    (ALICE | {"scopes": ["read", "all", 1]}, ["/scopes/1", "/scopes/2"]),
    (ALICE | {"scopes": "read"}, ["/scopes"]),
    (ALICE | {"expire": "soon"}, ["/expire"]),
    (ALICE | {"expire": 253402300800}, ["/expire"]),
    (ALICE | {"expire": 1}, ["/expire"]),
    *((ALICE | {"note": note}, ["/note"]) for note in ("", " ", "n" * 201, "a\nb", "\x9f", None, 1)),
]


async def test_errors_of_a_new_key_are_reported_together(serving: Serving, clock: FakeClock, sqlite_url: str) -> None:
    async with serving(access="keys") as client:
        admin = await SecuredService(client, sqlite_url, clock).key_client("root", "admin")
        for body, expected_pointers in INVALID_KEYS:
            reply = await admin.ask("POST", "/keys", json=body)
            assert pointers(reply) == expected_pointers, body
            assert b"to create a GUID" not in reply.body
        assert len((await admin.ask("GET", "/keys")).json["items"]) == 1


WHOLE_SECONDS = "must be a whole number of seconds, an integer from 0 to 2592000"
DETAILS: list[tuple[str, object, str]] = [
    ("", ALICE | {"scopes": "read"}, 'must be a list, such as ["read", "write"]'),
    ("", ALICE | {"scopes": []}, "must have at least 1 item"),
    ("/{id}/rotation", {"overlap": 60.5}, f"{WHOLE_SECONDS}; did you mean 61?"),
    ("/{id}/rotation", {"overlap": "60"}, f"{WHOLE_SECONDS}; did you mean 60?"),
    ("/{id}/rotation", {"overlap": -1}, WHOLE_SECONDS),
    ("/{id}/rotation", {"overlap": 2592001}, WHOLE_SECONDS),
    ("/{id}/rotation", {"overlap": True}, WHOLE_SECONDS),
    ("/{id}/rotation", {"overlap": None}, WHOLE_SECONDS),
    ("/{id}/rotation", {"overlap": "soon"}, WHOLE_SECONDS),
    ("/{id}/rotation", {"overlap": "9" * 5000}, WHOLE_SECONDS),
]


@pytest.mark.parametrize(("path", "body", "detail"), DETAILS)
async def test_mistake_about_a_key_is_explained(
    serving: Serving, clock: FakeClock, sqlite_url: str, path: str, body: object, detail: str
) -> None:
    async with serving(access="keys") as client:
        secured = SecuredService(client, sqlite_url, clock)
        credential = await secured.create_key("root", "admin")
        reply = await KeyClient(client, credential).ask("POST", f"/keys{path.format(id=credential.key.id)}", json=body)
        assert reply.status == 400
        assert [fault["detail"] for fault in reply.json["errors"]] == [detail]


async def test_scopes_of_a_request_have_a_bound(serving: Serving, clock: FakeClock, sqlite_url: str) -> None:
    """Valid or not: otherwise each invalid scope would add an error to the response."""
    async with serving(access="keys") as client:
        admin = await SecuredService(client, sqlite_url, clock).key_client("root", "admin")
        assert (await admin.ask("POST", "/keys", json=ALICE | {"scopes": ["read"] * 16})).status == 201
        for scopes in (["read"] * 17, ["reed"] * 4_800):
            (fault,) = (await admin.ask("POST", "/keys", json=ALICE | {"scopes": scopes})).json["errors"]
            assert fault == {"pointer": "/scopes", "detail": "must have at most 16 items"}


@pytest.mark.usefixtures("short_sessions")
async def test_revoked_key_is_rejected_and_stays_listed(admin: Admin) -> None:
    """A second revocation changes nothing. An admin may revoke its own key."""
    created = await admin.create()
    holder = admin.as_holder(created)
    assert (await holder.ask("GET", "/guid")).status == 200
    for _ in range(2):
        reply = await admin.ask("DELETE", f"/keys/{created['id']}")
        assert (reply.status, reply.body, reply.headers.get("Content-Type")) == (204, b"", None)
    await wait_for_status(401, holder, "/guid")
    assert (await admin.ask("GET", f"/keys/{created['id']}")).json["state"] == "revoked"
    items = (await admin.ask("GET", "/keys")).json["items"]
    assert {item["id"]: item["state"] for item in items} == {created["id"]: "revoked", admin.credential.key.id: "live"}
    problem = assert_problem(await admin.ask("POST", f"/keys/{created['id']}/rotation", json={}), 409, "key-ended")
    assert "was revoked" in str(problem["detail"])
    assert (await admin.ask("DELETE", f"/keys/{admin.credential.key.id}")).status == 204
    await wait_for_status(401, KeyClient(admin.client, admin.credential), "/keys")


@pytest.mark.usefixtures("short_sessions")
async def test_rotated_key_works_until_the_overlap_ends(admin: Admin) -> None:
    created = await admin.create(scopes=["read"])
    old_holder = admin.as_holder(created)
    assert (await old_holder.ask("GET", "/guid")).status == 200
    reply = await admin.ask("POST", f"/keys/{created['id']}/rotation", json={"overlap": 60})
    assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
    check(reply.json, schema("/keys/{id}/rotation", "post", 200))
    assert {name: value for name, value in reply.json.items() if name != "used"} == created | {"key": reply.json["key"]}
    assert reply.json["key"] != created["key"]
    new_holder = admin.as_holder(reply.json)
    admin.clock.advance(seconds=59)
    assert [(await holder.ask("GET", "/guid")).status for holder in (old_holder, new_holder)] == [200, 200]
    admin.clock.advance(seconds=1)
    await wait_for_status(401, old_holder, "/guid")
    assert (await new_holder.ask("GET", "/guid")).status == 200


async def test_overlap_is_an_hour_by_default_and_bounded(serving: Serving, clock: FakeClock, sqlite_url: str) -> None:
    async with serving(access="keys") as client:
        secured = SecuredService(client, sqlite_url, clock)
        admin, credential = await secured.key_client("root", "admin"), await secured.create_key()
        path = f"/keys/{credential.key.id}/rotation"
        for overlap in (-1, MAX_OVERLAP_SECONDS + 1, "60", 1.5, True, None):
            assert pointers(await admin.ask("POST", path, json={"overlap": overlap})) == ["/overlap"]
        assert (await admin.ask("POST", path, json={})).status == 200
        async with open_keys(sqlite_url) as key_repository:
            key = await key_repository.get(credential.key.id)
        assert key is not None
        assert key.former_until == clock() + OVERLAP_SECONDS * 1000


async def test_note_is_shown_until_it_is_removed(admin: Admin) -> None:
    """A rotation and a revocation keep the note; a key without a note has no such member."""
    created = await admin.create(note="n" * 200)
    path = f"/keys/{created['id']}"
    assert created["note"] == "n" * 200
    assert "note" not in await admin.create()
    assert (await admin.ask("POST", f"{path}/rotation", json={})).json["note"] == "n" * 200
    for body, note in (
        ({"note": "billing, nightly \u00e9"}, "billing, nightly \u00e9"),
        ({}, "billing, nightly \u00e9"),
    ):
        for headers in ({}, {"Content-Type": "application/merge-patch+json"}):
            reply = await admin.ask("PATCH", path, body=json.dumps(body).encode(), headers=JSON | headers)
            assert (reply.status, reply.json["note"]) == (200, note)
            check(reply.json, schema("/keys/{id}", "patch", 200))
    assert (await admin.ask("DELETE", path)).status == 204
    items = (await admin.ask("GET", "/keys")).json["items"]
    assert {item["id"]: item.get("note") for item in items}[created["id"]] == "billing, nightly \u00e9"
    for _ in range(2):
        reply = await admin.ask("PATCH", path, json={"note": None})
        assert (reply.status, "note" in reply.json, reply.json["state"]) == (200, False, "revoked")
    assert "note" not in (await admin.ask("GET", path)).json


async def test_invalid_change_of_a_key_is_rejected(admin: Admin) -> None:
    created = await admin.create(note="kept")
    path = f"/keys/{created['id']}"
    for body, pointer in (({"note": "n" * 201}, "/note"), ({"note": ""}, "/note"), ({"owner": "bob"}, "/owner"),
                        ({"scopes": ["admin"]}, "/scopes"), ({"note": ["n"]}, "/note")):  # fmt: skip
        assert pointers(await admin.ask("PATCH", path, json=body)) == [pointer]
    assert (await admin.ask("PATCH", path, body=b"{}", headers={"Content-Type": "text/plain"})).status == 415
    assert (await admin.ask("GET", path)).json["note"] == "kept"


async def test_unknown_key_is_not_found(admin: Admin) -> None:
    """Whatever stands for the id; the response does not repeat a complete key."""
    for name in (UNKNOWN, "x", "%00", "%FF", f"{UNKNOWN}%0A", admin.credential.text):
        for method, path in (("GET", ""), ("HEAD", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotation")):
            body: object = {} if method in {"PATCH", "POST"} else None
            reply = await admin.ask(method, f"/keys/{name}{path}", json=body)
            assert reply.status == 404
            if method != "HEAD":
                assert "key" in str(assert_problem(reply, 404, "not-found")["detail"])
                assert admin.credential.text.encode() not in reply.body
    for path in ("/keys/", f"/keys/{UNKNOWN}/", f"/keys/{UNKNOWN}/rotation/", f"/keys/{UNKNOWN}/other"):
        assert_problem(await admin.ask("GET", path), 404, "not-found")


@pytest.mark.usefixtures("short_sessions")
async def test_own_key_is_described_to_its_holder(admin: Admin) -> None:
    """With any scopes: the same members as in the list, without the secret."""
    for scopes in (["read"], ["monitor"], ["write", "delete"], ["admin"]):
        created = await admin.create(scopes=scopes, note="n", expire=admin.clock.seconds + 60)
        holder = admin.as_holder(created)
        reply = await holder.ask("GET", "/keys/self")
        assert reply.status == 200
        check(reply.json, schema("/keys/self", "get", 200))
        expected = {name: value for name, value in created.items() if name != "key"} | {"access": "keys", "rate": ANY}
        assert {name: value for name, value in reply.json.items() if name != "used"} == expected
        assert reply.headers["Cache-Control"] == "no-store"
        head = await holder.ask("HEAD", "/keys/self")
        assert (head.status, head.body) == (200, b"")
        assert (await admin.ask("DELETE", f"/keys/{created['id']}")).status == 204
        await wait_for_status(401, holder, "/keys/self")
    assert (await admin.client.get("/keys/self")).status == 401
    assert_problem(await admin.ask("GET", "/keys/self?view=full"), 400, "invalid-request")
    assert (await admin.ask("PUT", "/keys/self", json={})).headers["Allow"] == "GET, HEAD, OPTIONS"


async def test_own_key_shows_remaining_limits(serving: Serving, combination: dict[str, str], clock: FakeClock) -> None:
    """The rate limit, and the quota if the key may write."""
    async with serving(**combination, access="keys", rate_limit="100/hour", quota=5) as client:
        secured = SecuredService(client, combination["store_url"], clock)
        writer, reader = await secured.key_client("alice"), await secured.key_client("alice", "read")
        other_owner = await secured.key_client("bob", "admin")
        for caller, number in ((writer, 2), (other_owner, 1)):
            for _ in range(number):
                assert (await caller.ask("POST", "/guid", json={"user": "u"})).status == 201
        assert (await writer.ask("POST", "/guid", json={"user": "u", "expire": 1})).status == 201
        bodies = [(await caller.ask("GET", "/keys/self")).json for caller in (writer, writer, reader, other_owner)]

    remaining = [96, 95, 99, 98]
    assert [body["rate"] for body in bodies] == [
        {"limit": 100, "seconds": 3600, "left": number} for number in remaining
    ]
    live = {"limit": 5, "live": 2}
    assert [body.get("quota") for body in bodies] == [live, live, None, {"limit": 5, "live": 1}]


async def test_own_key_says_that_access_is_off(client: Client) -> None:
    reply = await client.get("/keys/self")
    assert (reply.status, reply.json) == (200, {"access": "off", "scopes": list(SCOPES)})
    check(reply.json, schema("/keys/self", "get", 200))


async def test_unsupported_methods_are_rejected(admin: Admin) -> None:
    for path, allowed in (
        ("/keys", "GET, HEAD, POST, OPTIONS"),
        (f"/keys/{UNKNOWN}", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        (f"/keys/{UNKNOWN}/rotation", "POST, OPTIONS"),
    ):
        assert (await admin.ask("PUT", path, json={})).headers["Allow"] == allowed


async def test_response_with_a_key_is_not_replayed(admin: Admin) -> None:
    """Idempotency-Key is rejected, and no key is created or rotated."""
    created = await admin.create()
    for path, body in (("/keys", ALICE), (f"/keys/{created['id']}/rotation", {})):
        reply = await admin.ask("POST", path, json=body, headers={"Idempotency-Key": "k"})
        problem = assert_problem(reply, 400, "invalid-request")
        assert [fault["header"] for fault in problem["errors"]] == ["Idempotency-Key"]  # type: ignore[attr-defined]
    assert len((await admin.ask("GET", "/keys")).json["items"]) == 2
    assert (await admin.as_holder(created).ask("GET", "/guid")).status == 200


async def test_body_must_be_json_and_small(admin: Admin) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await admin.ask("POST", "/keys", body=json.dumps(ALICE).encode(), headers=headers)).status == 415
    assert (await admin.ask("POST", "/keys", json=ALICE | {"more": "a" * 65_536})).status == 413


async def test_secret_is_shown_once_and_not_stored(
    admin: Admin, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is in no log line of any level, in no other response, and not in the store."""
    caplog.set_level(logging.DEBUG)
    created = await admin.create()
    rotated = (await admin.ask("POST", f"/keys/{created['id']}/rotation", json={})).json
    assert (await admin.as_holder(rotated).ask("GET", "/guid")).status == 200
    replies = [
        await admin.ask("GET", "/keys"),
        await admin.ask("GET", f"/keys/{created['id']}"),
        await admin.as_holder(created).ask("GET", "/keys"),
        await admin.as_holder(created).ask("PUT", "/guid", json={}),
        await admin.ask("DELETE", f"/keys/{created['id']}"),
    ]
    outputs = [
        *(reply.body.decode() for reply in replies),
        *(str(dict(reply.headers.get_all())) for reply in replies),
        *(record.getMessage() for record in caplog.records),
        *capfd.readouterr(),
        *map(str, stored_rows(admin.store_url)),
    ]
    for text in (created["key"], rotated["key"]):
        parsed = keys.parse(text)
        assert parsed is not None
        assert any(keys.digest_of(parsed.secret) in output for output in outputs), "the store holds the digest"
        assert not any(parsed.secret in output for output in outputs)
        assert not any(keys.digest_of(parsed.secret) in reply.body.decode() for reply in replies)
