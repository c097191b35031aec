"""The access matrix: every method of every path, requested with every kind of key.

The requests come from the route table. The expected statuses are in ROWS, by operation id, independent of what the
operations declare. So an operation without a row, or one whose required scope has changed, fails.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from itertools import combinations, product
from typing import NamedTuple

import pytest

from guidsvc.api.docs.openapi_document import Method, methods_of
from guidsvc.domain import api_key as keys
from guidsvc.domain.caller import ADMIN, SCOPES
from guidsvc.http.constants import METHODS
from guidsvc.store import open_keys
from tests.conftest import FakeClock, Serving
from tests.support.api_document import ROUTES
from tests.support.factories import GUID
from tests.support.http_client import Reply
from tests.support.secured_service import Credential, KeyClient, SecuredService, stored_rows

pytestmark = pytest.mark.each_once

OPERATIONS = [method for route in ROUTES for method in methods_of(route)]
CANARY = "canary-e1a6"
SUBSETS = [" ".join(each) for size in range(1, len(SCOPES) + 1) for each in combinations(SCOPES, size)]
"""All sets of scopes that a key can have."""
SINGLE_SCOPES: list[str] = list(SCOPES)
MINE = f"/guid/{GUID}"
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
BROWSER_HEADERS = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Row(NamedTuple):
    """An operation: its required scope, the status for permitted callers and for other owners, and a request body."""

    needs: str | None
    status: int
    other_owner_status: int
    body: object = None


def _open(status: int) -> Row:
    return Row(None, status, status)


RECORD = {"user": "u"}
BATCH = {
    "operations": [
        {"op": op, "guid": GUID} | more for op, more in (("get", {}), ("renew", {}), ("put", RECORD), ("delete", {}))
    ]
}
KEY = {"owner": "o", "scopes": ["read"]}
OPTIONS = _open(204)
ROWS: Mapping[str, Row] = {
    "listGuids": Row("read", 200, 200),
    "headGuids": Row("read", 200, 200),
    "createGuid": Row("write", 201, 201, RECORD),
    "drawGuid": Row("write", 201, 201, RECORD),
    "optionsGuids": OPTIONS,
    "doBatch": Row("key", 200, 200, BATCH),
    "optionsBatch": OPTIONS,
    "getGuid": Row("read", 200, 404),
    "headGuid": Row("read", 200, 404),
    "putGuid": Row("write", 200, 404, RECORD),
    "patchGuid": Row("write", 200, 404, RECORD),
    "deleteGuid": Row("delete", 204, 404),
    "optionsGuid": OPTIONS,
    "createRenewal": Row("write", 200, 404, {}),
    "optionsRenewal": OPTIONS,
    "listEvents": Row("read", 200, 200),
    "headEvents": Row("read", 200, 200),
    "optionsEvents": OPTIONS,
    "listKeys": Row("admin", 200, 403),
    "headKeys": Row("admin", 200, 403),
    "createKey": Row("admin", 201, 403, KEY),
    "optionsKeys": OPTIONS,
    "getOwnKey": Row("key", 200, 200),
    "headOwnKey": Row("key", 200, 200),
    "optionsOwnKey": OPTIONS,
    "getKey": Row("admin", 200, 403),
    "headKey": Row("admin", 200, 403),
    "patchKey": Row("admin", 200, 403, {"note": "n"}),
    "revokeKey": Row("admin", 204, 403),
    "optionsKey": OPTIONS,
    "createRotation": Row("admin", 200, 403, {}),
    "optionsRotation": OPTIONS,
    "getStats": Row("monitor", 200, 403),
    "headStats": Row("monitor", 200, 403),
    "optionsStats": OPTIONS,
    "getMetrics": Row("monitor", 200, 403),
    "headMetrics": Row("monitor", 200, 403),
    "optionsMetrics": OPTIONS,
    **{f"{verb}{name}": _open(200) for name in (
        "Livez", "Readyz", "Version", "Openapi", "Llms", "Docs", "DocsFile", "Problem", "Root",
        "Console", "ConsoleFile")
        for verb in ("get", "head")},
    "listProblems": _open(200),
    "headProblems": _open(200),
    **{f"options{name}": OPTIONS for name in (
        "Livez", "Readyz", "Version", "Openapi", "Llms", "Docs", "DocsFile", "Problem", "Problems", "Root",
        "Console", "ConsoleFile")},
}  # fmt: skip
HIDDEN = {"putGuid", "patchGuid", "createRenewal"}
"""Operations whose response has no body for a key without the scope `read`."""
FIXED_NAMES = {"file": "page.css", "code": "not-found"}
"""Values of path parameters that name no record or key."""


class World(SecuredService):
    """A service in which Alice, the victim, has a record and a key."""

    alice: Credential
    bob: Credential

    async def ask(self, method: Method, headers: Mapping[str, str], names: Mapping[str, str] | None = None) -> Reply:
        """Send the request of an operation's row, for the victim's record and key unless `names` gives others."""
        fixed_names = FIXED_NAMES | ({"file": "console.css"} if method.id.endswith("ConsoleFile") else {})
        path_names = fixed_names | {"guid": GUID, "id": self.alice.key.id} | dict(names or {})
        path = re.sub(r"\{(\w+)\}", lambda name: path_names[name[1]], method.route.path)
        return await self.client.ask(method.name, path, json=ROWS[method.id].body, headers=headers)

    @property
    def subsets(self) -> list[str]:
        """All sets of scopes; with MongoDB only single scopes, because the process compares them, not the store."""
        return SINGLE_SCOPES if self.store_url.startswith("mongodb") else SUBSETS

    async def ask_all(self, headers: Mapping[str, str]) -> dict[str, Reply]:
        """Send the requests of all operations at once; return the responses by operation id."""
        replies = await asyncio.gather(*(self.ask(method, headers) for method in OPERATIONS))
        return {method.id: reply for method, reply in zip(OPERATIONS, replies, strict=True)}

    async def state(self) -> object:
        """Return what the store holds of the victim, except when its key was last used, and what the victim reads."""
        async with open_keys(self.store_url) as key_repository:
            key = await key_repository.get(self.alice.key.id)
        assert key is not None
        record = await KeyClient(self.client, self.alice).ask("GET", f"{MINE}?view=full")
        stored = [row for row in map(str, stored_rows(self.store_url)) if CANARY in row]
        return key.model_copy(update={"used": None, "version": 1}), record.body, sorted(stored)

    async def own(self, method: Method) -> dict[str, str]:
        """Create the victim's record or key that an unsafe operation is to change; return its path parameter."""
        if method.name in SAFE_METHODS or not method.route.parameters:
            return {}
        if "id" in method.route.parameters:
            return {"id": (await self.create_key("alice")).key.id}
        created = await KeyClient(self.client, self.alice).ask("POST", "/guid", json=RECORD)
        return {"guid": created.json["guid"]}


@pytest.fixture
async def world(serving: Serving, combination: dict[str, str], clock: FakeClock) -> AsyncIterator[World]:
    async with serving(**combination, access="keys", login_limit="") as client:
        world = World(client, combination["store_url"], clock)
        world.alice, world.bob = await world.create_key("alice"), await world.create_key("bob")
        record = {"user": CANARY, "metadata": {"of": CANARY}}
        assert (await KeyClient(client, world.alice).ask("PUT", MINE, json=record)).status == 201
        yield world


def expected(**status: int) -> dict[str, int]:
    """Return the expected status of each operation: that of its row if it is open, else by its required scope."""
    return {name: row.status if row.needs is None else status[row.needs] for name, row in ROWS.items()}


def statuses_without_leak(replies: Mapping[str, Reply]) -> dict[str, int]:
    """Return the status of each response; fail if one contains the victim's canary."""
    for name, reply in replies.items():
        assert CANARY not in f"{reply.body.decode()}{dict(reply.headers.get_all())}", name
    return {name: reply.status for name, reply in replies.items()}


def test_every_operation_has_a_row() -> None:
    """Each operation has its own row, with the scope that it declares."""
    assert len(OPERATIONS) == len(ROWS)
    assert {method.id: method.operation.required_scope for method in OPERATIONS} == {
        name: row.needs for name, row in ROWS.items()
    }


async def invalid_credentials(world: World) -> dict[str, dict[str, str]]:
    """Return headers without a valid key, by what is wrong with them."""
    revoked, rotated = await world.create_key(), await world.create_key()
    expired = await world.create_key(expire=world.clock.seconds)
    await world.update_key(revoked, revoked=1)
    await world.update_key(rotated, digest=keys.digest_of("new"), former=rotated.key.digest, former_until=world.clock())
    authorizations = {
        "malformed": "Bearer gs_nonsense",
        "of no scheme": world.alice.text,
        "of another scheme": f"Basic {world.alice.text}",
        "empty": "Bearer",
        "mistyped": f"Bearer {world.alice.text[:-1]}{'0' if world.alice.text[-1] != '0' else '1'}",
        "unknown": f"Bearer {keys.generate('alice', SCOPES, 0)[1]}",
        "of a wrong secret": f"Bearer {keys.format_key(world.alice.key.id, '0' * keys.SECRET_CHARACTERS)}",
        "revoked": f"Bearer {revoked.text}",
        "expired": f"Bearer {expired.text}",
        "rotated away": f"Bearer {rotated.text}",
    }
    return {fault: {"Authorization": text} for fault, text in authorizations.items()} | {"none": {}}


async def test_only_open_operations_work_without_valid_key(world: World) -> None:
    """Without a key, or with a malformed, unknown, revoked or expired one: 401, and nothing changes."""
    before, credentials = await world.state(), await invalid_credentials(world)
    replies_by_credential = await asyncio.gather(*map(world.ask_all, credentials.values()))
    for fault, replies in zip(credentials, replies_by_credential, strict=True):
        assert statuses_without_leak(replies) == expected(
            key=401, read=401, write=401, delete=401, monitor=401, admin=401
        ), fault
    pages = await world.ask_all(BROWSER_HEADERS)
    assert statuses_without_leak(pages) == expected(key=401, read=401, write=401, delete=401, monitor=401, admin=401)
    assert b"a browser sends none" in pages["getGuid"].body
    assert await world.state() == before


@pytest.mark.slow
async def test_key_permits_exactly_the_operations_of_its_scopes(world: World) -> None:
    """With every set of scopes, for keys of the victim: everything else gets 403 and changes nothing."""
    before = await world.state()
    credentials = {scopes: await world.create_key("alice", scopes) for scopes in world.subsets}

    for method, (scopes, credential) in product(OPERATIONS, credentials.items()):
        if method.id == "doBatch":
            continue  # test_each_operation_of_a_batch_needs_its_scope covers it
        is_permitted = ROWS[method.id].needs in {None, "key", *scopes.split()} or ADMIN in scopes.split()
        reply = await world.ask(method, credential.headers, await world.own(method) if is_permitted else {})
        success = 204 if method.id in HIDDEN and not may_read(scopes) else ROWS[method.id].status
        assert reply.status == (success if is_permitted else 403), f"{method.id} with {scopes}"
    assert await world.state() == before


def may_read(scopes: str) -> bool:
    """Whether a key with these scopes may read records."""
    return bool({"read", ADMIN} & set(scopes.split()))


CHANGES: tuple[tuple[str, object, dict[str, str]], ...] = tuple(
    (method, body, headers)
    for method, body in (("PUT", {}), ("PUT", {"expire": 4102444800}), ("PATCH", {}), ("PATCH", {"metadata": {"b": 1}}),
                         ("DELETE", None))
    for headers in ({}, {"If-Match": '"1"'}, {"If-None-Match": "*"}, {"If-Match": "*"})
    if method != "DELETE" or headers in ({"If-Match": '"1"'}, {"If-None-Match": "*"})
)  # fmt: skip
"""Requests that `write` or `delete` permits and that replace no stored value of a record."""
FAILING = [{"op": op, "guid": GUID} | more
    for op in ("put", "delete") for more in ({"if_match": '"1"'}, {"if_none_match": "*"})]  # fmt: skip
OPERATIONS_OF_A_BATCH = [*FAILING, {"guid": GUID}, {"guid": GUID, "expire": 4102444801}]


@pytest.mark.slow
async def test_key_without_read_scope_sees_no_records_of_others(world: World) -> None:
    """Whether a request changes something, changes nothing or fails; alone, in a batch, or only validated."""
    for scopes in world.subsets:
        caller, replies = await world.key_client("alice", scopes), []
        for method, body, headers in CHANGES:
            replies += [
                await caller.ask(method, path, json=body, headers=headers) for path in (MINE, f"{MINE}?view=full")
            ]
        for query in ("", "?view=full", "?validate_only=true"):
            replies.append(await caller.ask("POST", f"/guid:batch{query}", json={"operations": OPERATIONS_OF_A_BATCH}))
            lines = "".join(json.dumps(operation) + "\n" for operation in OPERATIONS_OF_A_BATCH).encode()
            headers = {"Content-Type": "application/x-ndjson"}
            replies.append(await caller.ask("POST", f"/guid:batch{query}", body=lines, headers=headers))
        leaks = [CANARY in reply.body.decode() for reply in replies]
        may_change = not {*scopes.split()} <= {"read", "monitor"}
        assert any(leaks) is (may_read(scopes) and may_change), scopes
        if {"write", "delete"} & set(scopes.split()):
            assert 412 in {reply.status for reply in replies}


async def test_creation_returns_the_record_even_without_read_scope(world: World) -> None:
    writer = await world.key_client("alice", "write")
    for method, path in (("PUT", f"/guid/{'F' * 32}"), ("POST", "/guid")):
        reply = await writer.ask(method, path, json=RECORD)
        assert (reply.status, reply.json["user"]) == (201, "u")
    updated = await writer.ask("PUT", f"/guid/{'F' * 32}", json={"user": "v"})
    assert (updated.status, updated.body) == (204, b"")
    assert all(name in updated.headers for name in ("ETag", "Last-Modified"))
    assert "Preference-Applied" not in updated.headers, "the request has no Prefer header"
    assert (await writer.ask("PUT", f"/guid/{'F' * 32}", json={}, headers={"If-Match": '"1"'})).headers["ETag"]


async def test_dry_run_confirms_no_guess_of_stored_values(world: World) -> None:
    """A caller that may not read a record must not learn whether an update would change it."""
    put = await KeyClient(world.client, world.alice).ask("PUT", f"/guid/{'E' * 32}", json={"user": "right"})
    version = put.headers["ETag"]
    for scopes in ("write", "read write"):
        caller, results = await world.key_client("alice", scopes), []
        for guess in ("right", "wrong"):
            operations = [{"op": "put", "guid": "E" * 32, "user": guess}]
            operations.append(operations[0] | {"user": "x", "if_match": version})
            reply = await caller.ask("POST", "/guid:batch?validate_only=true", json={"operations": operations})
            results.append([result["status"] for result in reply.json["results"]] + [reply.json["results"][0]])
        assert (results[0] == results[1]) is (scopes == "write")


EXPIRED_IN = 100


EXPIRIES: tuple[dict[str, int], ...] = ({}, {"expire": 0}, {"expire": EXPIRED_IN})
LATER_OPERATIONS: tuple[dict[str, str], ...] = (
    {"if_match": '"1"'},
    {"if_none_match": "*"},
    {"user": "x"},
    {"op": "delete", "if_match": '"1"'},
)


async def test_later_operations_of_a_dry_run_confirm_no_guess(world: World) -> None:
    """Status, ETag and problem are the same for right and wrong guesses, for live, revoked and expired records."""
    alice, writer = KeyClient(world.client, world.alice), await world.key_client("alice", "write delete")
    cases = {f"{number:032X}": case for number, case in enumerate(product(EXPIRIES, LATER_OPERATIONS))}
    expires: dict[str, int] = {}
    for guid, (expiry, _) in cases.items():
        time = {name: value and world.clock.seconds + value for name, value in expiry.items()}
        stored = await alice.ask("PUT", f"/guid/{guid}", json={"user": "right", "metadata": {"pin": "1"}} | time)
        expires[guid] = int(stored.json["expire"])
    world.clock.advance(seconds=2 * EXPIRED_IN)
    for guid, (expiry, later) in cases.items():
        results = []
        for guess in ({"user": "right"}, {"user": "wrong"}, {"metadata": {"pin": "1"}}, {"metadata": {"pin": "2"}}):
            operations = [{"guid": guid, "expire": expires[guid]} | guess, {"guid": guid} | later]
            reply = await writer.ask("POST", "/guid:batch?validate_only=true", json={"operations": operations})
            results.append(
                [result | {"problem": without_request_id(result.get("problem"))} for result in reply.json["results"]]
            )
        assert all(result == results[0] for result in results), f"{expiry}, {later}"


def without_request_id(problem: dict[str, str] | None) -> dict[str, str]:
    """Return a problem without its request id."""
    return {name: value for name, value in (problem or {}).items() if name != "request_id"}


async def test_each_operation_of_a_batch_needs_its_scope(world: World) -> None:
    """With every set of scopes: the result of an operation that the scopes do not permit is 403."""
    for scopes in world.subsets:
        granted, caller = scopes.split(), await world.key_client("alice", scopes)
        created = await KeyClient(world.client, world.alice).ask("POST", "/guid", json=RECORD)
        operations = [operation | {"guid": created.json["guid"]} for operation in BATCH["operations"]]
        reply = await caller.ask("POST", "/guid:batch", json={"operations": operations})
        required = (("read", 200), ("write", 200), ("write", 200), ("delete", 204))
        assert [result["status"] for result in reply.json["results"]] == [
            status if scope in granted or ADMIN in granted else 403 for scope, status in required
        ], scopes


async def test_record_of_another_owner_seems_absent(world: World) -> None:
    """Even with all scopes for own records: the response reveals nothing of the record, and nothing changes."""
    before = await world.state()
    replies = await world.ask_all(world.bob.headers)
    assert statuses_without_leak(replies) == {name: row.other_owner_status for name, row in ROWS.items()}
    pages = await world.ask_all(world.bob.headers | BROWSER_HEADERS)
    assert statuses_without_leak(pages) == {name: row.other_owner_status for name, row in ROWS.items()}
    assert b"<html" in pages["listGuids"].body
    assert [result["status"] for result in replies["doBatch"].json["results"]] == [404] * 4
    lines = await KeyClient(world.client, world.bob).ask(
        "GET", "/guid?state=all", headers={"Accept": "application/x-ndjson"}
    )
    assert CANARY not in lines.body.decode()
    events = await KeyClient(world.client, world.bob).ask("GET", "/events", headers={"Accept": "application/x-ndjson"})
    assert {line["record"]["user"] for line in events.lines[:-1]} == {"u"}, "only events of its own records"
    assert CANARY not in events.body.decode()
    assert await world.state() == before


async def test_only_admin_sees_and_filters_by_owner(world: World) -> None:
    """In records, pages, lines and batch results; other callers see no owner and may filter only by their own."""
    admin, lines = await world.key_client("ops", "admin"), {"Accept": "application/x-ndjson"}
    assert (await KeyClient(world.client, world.bob).ask("POST", "/guid", json=RECORD)).status == 201
    get_batch = {"operations": [{"op": "get", "guid": GUID}]}

    async def owners_shown(caller: KeyClient) -> list[object]:
        """Return the owner of Alice's record in each representation of the full view."""
        updated = await caller.ask("PATCH", f"{MINE}?view=full", json={})
        pages = await caller.ask("GET", "/guid?view=full"), await caller.ask("GET", "/guid?view=full", headers=lines)
        results = (await caller.ask("POST", "/guid:batch?view=full", json=get_batch)).json["results"]
        full = [(await caller.ask("GET", f"{MINE}?view=full")).json, updated.json, results[0]["record"]]
        full += [record for record in [*pages[0].json["items"], *pages[1].lines] if record["guid"] == GUID]
        assert [list(record)[-1] for record in full] == ["owner" if "owner" in full[0] else "state"] * 5
        return [record.get("owner") for record in full]

    assert await owners_shown(admin) == ["alice"] * 5
    assert await owners_shown(KeyClient(world.client, world.alice)) == [None] * 5

    for owner, expected_owners in (("alice", ["alice"]), ("bob", ["bob"]), ("ops", []), ("", [])):
        for headers in ({}, lines):
            reply = await admin.ask("GET", f"/guid?view=full&owner={owner}", headers=headers)
            items = reply.lines if headers else reply.json["items"]
            assert [record["owner"] for record in items] == expected_owners
        counted_page = await admin.ask("GET", f"/guid?owner={owner}", headers={"Prefer": "return=total-count"})
        assert counted_page.json["total"] == len(expected_owners)
    for caller in (KeyClient(world.client, world.alice), KeyClient(world.client, world.bob)):
        own_name = caller.credential.key.owner
        for headers in ({}, lines):
            filtered, unfiltered = [
                await caller.ask("GET", f"/guid{query}", headers=headers) for query in (f"?owner={own_name}", "")
            ]
            assert (filtered.status, filtered.body) == (200, unfiltered.body), "same response as without the filter"
        for owner in {"alice", "bob", "ops", ""} - {own_name}:
            for headers in ({}, lines):
                rejection = await caller.ask("GET", f"/guid?owner={owner}", headers=headers)
                assert (rejection.status, rejection.json["code"]) == (403, "forbidden")
                assert 'scope="admin"' in rejection.headers["WWW-Authenticate"]
                assert CANARY not in rejection.body.decode()
    assert (await admin.ask("GET", f"/guid?owner={'x' * 257}")).status == 400


async def test_unsupported_method_is_rejected_for_all_callers(world: World) -> None:
    """405 on every path, with or without a key, and nothing changes."""
    before = await world.state()
    for route in ROUTES:
        path = re.sub(r"\{(\w+)\}", GUID, route.path)
        for method in set(METHODS) - set(route.handler.methods()):
            for headers in ({}, world.alice.headers, world.bob.headers):
                reply = await world.client.ask(method, path, headers=headers)
                assert reply.status == 405, f"{method} {path}"
    assert await world.state() == before
