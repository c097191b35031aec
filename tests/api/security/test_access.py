"""Access control by keys, scopes and owners, through the fast path, handlers, lists and batches."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guidsvc.auth import authenticator as guard
from guidsvc.auth import session as sessions
from guidsvc.auth.authenticator import Authenticator
from guidsvc.auth.lockout import MAX_LOOKUPS, TOKEN_LOOKUPS, KnownFailures
from guidsvc.auth.tokens.jwt_bearer import JwtVerifier, Verified
from guidsvc.domain import api_key as keys
from guidsvc.domain.caller import SCOPES, Caller
from guidsvc.store import open_keys
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID
from tests.support.jwt_issuer import AUDIENCE, ISSUER, Signer, claims, key_set, segment
from tests.support.secured_service import WAIT_SECONDS, KeyClient, SecuredService

pytestmark = pytest.mark.both_servers

EC = Signer("ec")
PATH = f"/guid/{GUID}"
BODY = {"user": "a"}


@pytest.fixture
async def secured(serving: Serving, combination: dict[str, str], clock: FakeClock) -> AsyncIterator[SecuredService]:
    async with serving(**combination, access="keys", login_limit="") as client:
        yield SecuredService(client, combination["store_url"], clock)


async def test_request_without_key_is_told_how_to_authenticate(secured: SecuredService) -> None:
    """401 with the authentication scheme."""
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
        reply = await secured.client.ask(method, PATH)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Bearer realm="guidsvc"')


async def test_key_permits_what_its_scopes_allow(secured: SecuredService) -> None:
    """Three keys of one owner, for reading, writing and deleting: each permits its own requests and no others."""
    callers = {scope: await secured.key_client(scopes=scope) for scope in ("read", "write", "delete")}
    required_scopes = {"PUT": "write", "GET": "read", "HEAD": "read", "PATCH": "write", "DELETE": "delete"}
    for method, required in required_scopes.items():
        body = BODY if method in {"PUT", "PATCH"} else None
        for scope, caller in callers.items():
            if scope != required:
                reply = await caller.ask(method, PATH, json=body)
                assert reply.status == 403
                assert f'scope="{required}"' in reply.headers["WWW-Authenticate"]
        assert (await callers[required].ask(method, PATH, json=body)).status < 300


async def test_record_of_another_owner_seems_absent(secured: SecuredService) -> None:
    """To reads, updates and deletions, cached or not, with any precondition."""
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    created = await alice.ask("PUT", PATH, json=BODY)
    for _ in range(3):
        assert (await alice.ask("GET", PATH)).status == 200
        assert (await bob.ask("GET", PATH)).status == 404
    absent = f"/guid/{'0' * 32}"
    for method, headers in (
        ("GET", {}),
        ("GET", {"If-None-Match": created.headers["ETag"]}),
        ("GET", {"If-Match": created.headers["ETag"]}),
        ("HEAD", {}),
        ("PATCH", {}),
        ("PATCH", {"If-Match": '"1"'}),
        ("DELETE", {}),
        ("DELETE", {"If-None-Match": "*"}),
    ):
        body = {"user": "b"} if method == "PATCH" else None
        replies = [await bob.ask(method, path, json=body, headers=headers) for path in (PATH, absent)]
        assert replies[0].status == replies[1].status == 404
        assert "record" not in replies[0].body.decode() or method == "HEAD"
    for headers in ({}, {"If-None-Match": "*"}, {"If-Match": "*"}):
        assert (await bob.ask("PUT", PATH, json={"user": "b"}, headers=headers)).status == 404
    assert (await alice.ask("GET", PATH)).json == created.json


async def test_keys_of_one_owner_share_and_admin_sees_all(secured: SecuredService) -> None:
    """A record that an admin changes keeps its owner."""
    alice, second_key, admin = (
        await secured.key_client("alice"),
        await secured.key_client("alice"),
        await secured.key_client("root", "admin"),
    )
    await alice.ask("PUT", PATH, json=BODY)
    assert (await second_key.ask("GET", PATH)).status == 200
    assert (await admin.ask("PUT", PATH, json={"user": "c"})).status == 200
    assert (await alice.ask("GET", PATH)).json["user"] == "c"


async def test_list_holds_only_own_records(secured: SecuredService) -> None:
    """Pages, totals and streams, also filtered by user; those of an admin hold all records."""
    alice, bob, admin = (
        await secured.key_client("alice"),
        await secured.key_client("bob"),
        await secured.key_client("root", "admin"),
    )
    for number, caller in enumerate([alice, bob, alice]):
        await caller.ask("PUT", f"/guid/{number:032X}", json=BODY)
    for query in ("?", "?user=a&", "?state=all&"):
        for caller, count in ((alice, 2), (bob, 1), (admin, 3)):
            page = await caller.ask("GET", f"/guid{query}limit=500", headers={"Prefer": "return=total-count"})
            lines = await caller.ask("GET", f"/guid{query[:-1] or '?'}", headers={"Accept": "application/x-ndjson"})
            assert (len(page.json["items"]), page.json["total"], len(lines.lines)) == (count, count, count)


async def test_each_operation_of_a_batch_is_authorized(secured: SecuredService) -> None:
    """By the scope of the key and the owner of the record."""
    bob, writer = await secured.key_client("bob"), await secured.key_client("alice", "write")
    await bob.ask("PUT", PATH, json=BODY)
    operations = [
        {"op": "put", "user": "a"},
        {"op": "put", "guid": GUID, "user": "a"},
        {"op": "get", "guid": GUID},
        {"op": "delete", "guid": GUID},
    ]
    reply = await writer.ask("POST", "/guid:batch", json={"operations": operations})
    assert [result["status"] for result in reply.json["results"]] == [201, 404, 403, 403]
    assert (await bob.ask("GET", PATH)).json["user"] == "a"


async def test_idempotency_key_belongs_to_its_owner(secured: SecuredService) -> None:
    """The same Idempotency-Key from another owner identifies another request."""
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    headers = {"Idempotency-Key": "k"}
    first = await alice.ask("POST", "/guid", json=BODY, headers=headers)
    retry = await alice.ask("POST", "/guid", json=BODY, headers=headers)
    other_owner = await bob.ask("POST", "/guid", json=BODY, headers=headers)
    assert first.json == retry.json
    assert other_owner.status == 201
    assert other_owner.json["guid"] != first.json["guid"]
    assert (await bob.ask("GET", f"/guid/{first.json['guid']}")).status == 404


async def test_invalid_key_is_rejected(secured: SecuredService) -> None:
    """A mistyped or unknown key, a wrong secret or another scheme: 401 with `invalid_token`."""
    credential = await secured.create_key()
    assert (await KeyClient(secured.client, credential).ask("PUT", PATH, json=BODY)).status == 201
    _, unknown = keys.generate("alice", SCOPES, 0)
    wrong = keys.format_key(credential.key.id, "0" * keys.SECRET_CHARACTERS)
    mistyped = credential.text[:-1] + ("0" if credential.text[-1] != "0" else "1")
    for authorization in (
        f"Bearer {unknown}",
        f"Bearer {wrong}",
        f"Bearer {mistyped}",
        f"Basic {credential.text}",
        credential.text,
        "Bearer",
        f"Bearer {credential.text}, Bearer {credential.text}",
        "Bearer " + "a" * 10_000,
    ):
        for method in ("GET", "PUT", "DELETE"):
            body = BODY if method == "PUT" else None
            reply = await secured.client.ask(method, PATH, json=body, headers={"Authorization": authorization})
            assert reply.status == 401
            assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]
    reply = await secured.client.ask("GET", f"{PATH}?access_token={credential.text}")
    assert reply.status == 401


@pytest.mark.slow
async def test_revoked_or_expired_key_is_rejected_within_five_seconds(secured: SecuredService) -> None:
    """Even if it is used all the time."""
    revoked, expiring = await secured.create_key(), await secured.create_key(expire=secured.clock.seconds + 60)
    for credential in (revoked, expiring):
        assert (await KeyClient(secured.client, credential).ask("PUT", PATH, json=BODY)).status in {200, 201}
    await secured.update_key(revoked, revoked=1)
    await assert_rejected_in_time(KeyClient(secured.client, revoked))
    secured.clock.now += 61_000
    await assert_rejected_in_time(KeyClient(secured.client, expiring))


async def assert_rejected_in_time(key_client: KeyClient) -> None:
    """Use a key that has ended until it is rejected. No request that begins five seconds after the end may succeed."""
    timer = asyncio.get_running_loop().time
    ended = begun = timer()
    while (await key_client.ask("GET", PATH)).status != 401:
        assert begun - ended < 5
        await asyncio.sleep(0.05)
        begun = timer()


async def test_use_of_a_key_is_recorded(secured: SecuredService) -> None:
    """At most once an hour."""
    credential = await secured.create_key()
    await KeyClient(secured.client, credential).ask("GET", PATH)
    async with asyncio.timeout(30), open_keys(secured.store_url) as key_repository:
        while (key := await key_repository.get(credential.key.id)) is None or key.used is None:
            await asyncio.sleep(0.02)
    assert key.used == secured.clock.now


async def test_health_and_descriptions_need_no_key(secured: SecuredService) -> None:
    """Metrics are for those who monitor, and for admins."""
    for path in (
        "/livez",
        "/readyz",
        "/version",
        "/openapi.json",
        "/llms.txt",
        "/docs",
        "/problems",
        "/problems/unauthorized",
        "/",
    ):
        assert (await secured.client.get(path)).status == 200
    reader, admin = await secured.key_client(), await secured.key_client("root", "admin")
    assert (await secured.client.get("/metrics")).status == 401
    assert (await reader.ask("GET", "/metrics")).status == 403
    assert (await admin.ask("GET", "/metrics")).status == 200


async def test_monitor_key_reads_metrics_and_counts_alone(secured: SecuredService) -> None:
    """The fast path rejects it too, and a batch rejects each operation."""
    monitor = await secured.key_client("prometheus", "monitor")
    assert [(await monitor.ask("GET", path)).status for path in ("/metrics", "/stats")] == [200, 200]
    for method, path in (("GET", PATH), ("GET", "/guid"), ("PUT", PATH), ("POST", "/guid"), ("DELETE", PATH),
                         ("GET", "/keys"), ("POST", "/keys")):  # fmt: skip
        body = {"user": "u"} if method in {"PUT", "POST"} else None
        assert [(await monitor.ask(method, path, json=body)).status for _ in range(2)] == [403, 403], (
            "by handler and fast path"
        )
    operations = [{"op": op, "guid": GUID} for op in ("get", "delete")] + [{"user": "u"}]
    batch = await monitor.ask("POST", "/guid:batch", json={"operations": operations})
    assert [result["status"] for result in batch.json["results"]] == [403, 403, 403]


async def test_failed_login_takes_as_long_as_any_other(secured: SecuredService) -> None:
    """A wrong secret, an unknown id and a malformed key all wait for the minimum time."""
    credential = await secured.create_key()
    _, unknown = keys.generate("alice", SCOPES, 0)
    for text in (unknown, keys.format_key(credential.key.id, "0" * keys.SECRET_CHARACTERS), "nonsense"):
        start = asyncio.get_running_loop().time()
        await secured.client.get(PATH, headers={"Authorization": f"Bearer {text}"})
        assert asyncio.get_running_loop().time() - start >= 0.045


async def test_rate_limited_caller_is_told_when_to_retry(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """Each response shows the remaining requests. A key of the same owner has its own; health checks do not count."""
    async with serving(**combination, access="keys", rate_limit="4/minute") as client:
        secured = SecuredService(client, combination["store_url"], clock)
        alice, other = await secured.key_client("alice"), await secured.key_client("alice")
        assert (await alice.ask("PUT", PATH, json=BODY)).headers["RateLimit"].startswith('"requests";r=3;t=')
        for path, remaining in ((PATH, 2), ("/guid", 1), (PATH, 0)):
            reply = await alice.ask("GET", path)
            assert reply.status == 200
            assert reply.headers["RateLimit"].startswith(f'"requests";r={remaining};t=')
            assert reply.headers["RateLimit-Policy"] == '"requests";q=4;w=60'
        for method in ("GET", "DELETE"):
            reply = await alice.ask(method, PATH)
            assert (reply.status, reply.json["code"]) == (429, "rate-limited")
            assert 0 < int(reply.headers["Retry-After"]) <= 60
            assert reply.headers["RateLimit"].startswith('"requests";r=0;t=')
        assert (await other.ask("GET", PATH)).status == 200
        assert (await client.get("/readyz")).status == 200
        clock.now += 60_000
        assert (await alice.ask("GET", PATH)).status == 200


async def test_requests_for_nothing_count_as_others_do(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """Unknown paths and methods, and OPTIONS, if the key is known. Preflights have no key; public paths are free."""
    async with serving(**combination, access="keys", rate_limit="7/minute", cors_origins="https://a.example") as client:
        alice = await SecuredService(client, combination["store_url"], clock).key_client("alice")
        assert (await alice.ask("GET", "/nothing")).status == 404, "the key is not known yet"
        assert (await alice.ask("PUT", PATH, json=BODY)).headers["RateLimit"].startswith('"requests";r=6;t=')
        remaining = 6
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("POST", "/nothing", 404),
            ("DELETE", "/guid", 405),
            ("DELETE", "/livez", 405),
            ("OPTIONS", "/guid", 204),
            ("OPTIONS", "*", 204),
        ):
            reply = await alice.ask(method, path)
            remaining -= 1
            assert reply.status == status
            assert reply.headers["RateLimit"].startswith(f'"requests";r={remaining};t='), (method, path)
        for method, path in (("GET", "/nothing"), ("DELETE", "/guid"), ("OPTIONS", "/guid")):
            reply = await alice.ask(method, path)
            assert (reply.status, reply.json["code"]) == (429, "rate-limited")
        assert (await alice.ask("GET", "/readyz")).status == 200
        preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
        assert (await client.ask("OPTIONS", PATH, headers=preflight)).status == 204
        assert (await client.ask("GET", "/nothing")).status == 404


async def test_lease_requests_are_counted_once(serving: Serving, combination: dict[str, str], clock: FakeClock) -> None:
    """Whether the response comes from the cache or a handler, or is an error."""
    async with serving(**combination, access="keys", rate_limit="20/minute") as client:
        alice = await SecuredService(client, combination["store_url"], clock).key_client("alice")
        remaining = 20
        for method, path, body, status in (
            ("PUT", PATH, {"user": "a", "ttl": 60}, 201),
            ("GET", f"{PATH}?valid_for=30", None, 200),
            ("GET", f"{PATH}?valid_for=30", None, 200),
            ("GET", f"{PATH}?valid_for=90", None, 409),
            ("GET", f"/guid/{'F' * 32}?valid_for=30", None, 404),
            ("POST", f"{PATH}/renewal", {"ttl": 60, "if_below": 30}, 200),
            ("POST", f"{PATH}/renewal", {"ttl": 60, "if_below": 30}, 200),
            ("POST", f"{PATH}/renewal", {"ttl": 90}, 200),
        ):
            reply = await alice.ask(method, path, json=body)
            remaining -= 1
            assert reply.status == status
            assert reply.headers["RateLimit"].startswith(f'"requests";r={remaining};t='), (method, path)


@pytest.mark.parametrize(
    "settings", [{"access_log": True}, {"cache_status": True}, {}], ids=["log", "diagnostics", "plain"]
)
async def test_read_past_the_cache_is_counted_once(
    serving: Serving, mongo_url: str, clock: FakeClock, settings: dict[str, bool]
) -> None:
    """Also if an earlier read with the same headers was a cache hit."""
    guids = [f"{number:032X}" for number in range(5)]
    async with serving(store_url=mongo_url, access="keys", rate_limit="100/hour", **settings) as client:
        secured = SecuredService(client, mongo_url, clock)
        alice = await secured.key_client("alice")
        remaining = 100
        for path in [*(f"/guid/{guid}" for guid in guids), *[f"/guid/{guids[0]}"] * 2, *(f"/guid/{g}" for g in guids)]:
            reply = await alice.ask("GET" if remaining <= 95 else "PUT", path, json=None if remaining <= 95 else BODY)
            remaining -= 1
            assert reply.status in {200, 201}
            assert reply.headers["RateLimit"].startswith(f'"requests";r={remaining};t='), path


async def test_failed_logins_lock_out_their_address(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """Further failures get 429 after the same delay as any; after the lockout they get 401 again."""
    async with serving(**combination, access="keys", login_limit="3/minute") as client:
        wrong = {"Authorization": "Bearer nonsense"}
        for _ in range(3):
            assert (await client.get(PATH, headers=wrong)).status == 401
        for method in ("GET", "PUT", "DELETE"):
            start = asyncio.get_running_loop().time()
            reply = await client.ask(method, PATH, headers=wrong)
            assert asyncio.get_running_loop().time() - start >= 0.045
            assert (reply.status, reply.json["code"]) == (429, "rate-limited")
            assert 0 < int(reply.headers["Retry-After"]) <= 60
        clock.now += 60_000
        assert (await client.get(PATH, headers=wrong)).status == 401


async def test_valid_key_is_accepted_from_locked_out_address(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """Used before or not, and while another client at the same address keeps sending a revoked key."""
    async with serving(**combination, access="keys", login_limit="3/minute") as client:
        secured = SecuredService(client, combination["store_url"], clock)
        revoked = await secured.create_key("carol")
        await secured.update_key(revoked, revoked=1)
        stale = KeyClient(client, revoked)
        for _ in range(3):
            assert (await stale.ask("GET", PATH)).status == 401
        for owner in ("alice", "bob"):
            assert (await stale.ask("GET", PATH)).status == 429
            new = await secured.key_client(owner)
            assert (await new.ask("PUT", f"/guid/{owner.encode().hex().upper():0>32}", json=BODY)).status == 201
            assert (await new.ask("GET", "/guid")).status == 200
        assert (await stale.ask("GET", PATH)).status == 429


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Credentials that were looked up in the store since the list was cleared."""
    lookups: list[str] = []
    look_up = Authenticator._look_up

    async def recorded_look_up(authenticator: Authenticator, authorization: str) -> tuple[Caller, float]:
        lookups.append(authorization)
        return await look_up(authenticator, authorization)

    monkeypatch.setattr(Authenticator, "_look_up", recorded_look_up)
    return lookups


async def test_failed_logins_of_locked_out_address_cost_little(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, lookups: list[str]
) -> None:
    """At most MAX_LOOKUPS unknown keys are looked up in a second, a repeated one never; known keys still work."""
    monkeypatch.setattr(guard, "KnownFailures", lambda _: KnownFailures(600))
    clock.now -= clock.now % 60_000
    async with serving(access="keys", login_limit="3/minute") as client:
        for name in ("GOOD_SECONDS", "FRESH_SECONDS"):
            monkeypatch.setattr(sessions, name, 0.0)  # look up each credential every time
        known = KeyClient(client, await SecuredService(client, sqlite_url, clock).create_key())
        assert (await known.ask("GET", "/guid")).status == 200

        async def fail(text: str) -> int:
            return (await client.get(PATH, headers={"Authorization": f"Bearer {text}"})).status

        unknown = [keys.generate("alice", SCOPES, 0)[1] for _ in range(MAX_LOOKUPS + 50)]
        for _ in range(3):
            assert await fail(unknown[0]) == 401
        lookups.clear()
        assert set(await asyncio.gather(*(fail(text) for text in unknown[1:]))) == {429}
        assert len(lookups) == MAX_LOOKUPS
        lookups.clear()
        assert (await known.ask("GET", "/guid?limit=no")).status == 400, "authenticated without another lookup"
        assert len(lookups) == 1
        clock.now += 1000
        lookups.clear()
        for text in unknown[:3]:
            assert await fail(text) == 429
        assert lookups == []
        assert await fail(keys.generate("alice", SCOPES, 0)[1]) == 429
        assert len(lookups) == 1


async def test_failed_tokens_of_locked_out_address_cost_little(
    serving: Serving, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop verifies a tenth as many signatures as it looks up keys."""
    verified: list[str] = []
    verify = JwtVerifier.verify

    def recorded_verify(verifier: JwtVerifier, token: str) -> Verified:
        verified.append(token)
        return verify(verifier, token)

    monkeypatch.setattr(JwtVerifier, "verify", recorded_verify)
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set(EC.jwk()))
    settings = {"jwt_jwks": str(jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "login_limit": "3/minute"}
    clock.now -= clock.now % 60_000
    async with serving(access="keys", **settings) as client:
        unsigned, _, _ = EC.token(claims(clock.seconds)).rpartition(".")

        async def fail(number: int) -> int:
            signature = segment(number.to_bytes(64, "big"))
            return (await client.get(PATH, headers={"Authorization": f"Bearer {unsigned}.{signature}"})).status

        for number in range(3):
            assert await fail(number) == 401
        verified.clear()
        assert set(await asyncio.gather(*map(fail, range(3, 253)))) == {429}
    assert len(verified) == MAX_LOOKUPS // TOKEN_LOOKUPS


async def test_expired_token_is_not_looked_up_again_in_a_lockout(
    serving: Serving, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lookups: list[str]
) -> None:
    """Although it was accepted before: then its session was cached."""
    monkeypatch.setattr(guard, "KnownFailures", lambda _: KnownFailures(600))
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set(EC.jwk()))
    settings = {"jwt_jwks": str(jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "login_limit": "3/minute"}
    clock.now -= clock.now % 60_000
    async with serving(access="keys", **settings) as client:
        for name in ("GOOD_SECONDS", "FRESH_SECONDS"):
            monkeypatch.setattr(sessions, name, 0.0)  # look up each credential every time
        headers = {"Authorization": f"Bearer {EC.token(claims(clock.seconds, exp=clock.seconds + 2))}"}
        statuses = [(await client.get("/guid?limit=1", headers=headers)).status]
        clock.now += 2_000
        statuses += [(await client.get("/guid?limit=1", headers=headers)).status for _ in range(3)]
        assert statuses == [200, 401, 401, 401]
        lookups.clear()
        assert [(await client.get("/guid?limit=1", headers=headers)).status for _ in range(3)] == [429] * 3
    assert lookups == []


async def test_login_is_cached_once_for_all_spellings(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, lookups: list[str]
) -> None:
    """Otherwise one key could evict others from the session cache, and each would be looked up again."""
    monkeypatch.setattr(sessions, "GOOD_SECONDS", 600.0)
    monkeypatch.setattr(sessions, "FRESH_SECONDS", 600.0)
    async with serving(access="keys", login_limit="") as client:
        credential = await SecuredService(client, sqlite_url, clock).create_key()
        spellings = [f"{scheme}{' ' * blanks}" for scheme in ("Bearer", "bearer", "BEARER") for blanks in (1, 2, 5_000)]
        for spelling in spellings:
            for path in ("/guid", PATH):
                reply = await client.get(path, headers={"Authorization": f"{spelling}{credential.text}"})
                assert reply.status == (200 if path == "/guid" else 404)
        assert len(lookups) == 1


@pytest.mark.slow
async def test_token_permits_what_its_scopes_allow(
    serving: Serving, combination: dict[str, str], clock: FakeClock, tmp_path: Path
) -> None:
    """Its owner shares records with keys of that owner, if configured; an expired token is rejected at once."""
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set(EC.jwk()))
    settings = {"jwt_jwks": str(jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "login_limit": ""}
    async with serving(**combination, access="keys", jwt_shared_owners=True, **settings) as client:
        secured = SecuredService(client, combination["store_url"], clock)
        alice = await secured.key_client("alice")
        token = EC.token(claims(clock.seconds, sub="alice", scope="read", exp=clock.seconds + 2))
        headers = {"Authorization": f"Bearer {token}"}
        assert (await alice.ask("PUT", PATH, json=BODY)).status == 201
        for _ in range(3):
            assert (await client.get(PATH, headers=headers)).status == 200
        assert (await client.delete(PATH, headers=headers)).status == 403
        other_owner = {"Authorization": f"Bearer {EC.token(claims(clock.seconds, sub='bob', scope='read'))}"}
        assert (await client.get(PATH, headers=other_owner)).status == 404
        clock.now += 2000
        async with asyncio.timeout(WAIT_SECONDS):
            while (await client.get(PATH, headers=headers)).status != 401:
                await asyncio.sleep(0.05)


async def test_token_subject_cannot_impersonate_a_key_owner(
    serving: Serving, sqlite_url: str, clock: FakeClock, tmp_path: Path
) -> None:
    """The owner of a token contains its issuer; a key shares it only if an admin gave it that full name."""
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set(EC.jwk()))
    async with serving(access="keys", jwt_jwks=str(jwks), jwt_issuer=ISSUER, jwt_audience=AUDIENCE) as client:
        secured = SecuredService(client, sqlite_url, clock)
        alice, same_owner = await secured.key_client("alice"), await secured.key_client(f"{ISSUER}#alice")
        headers = {"Authorization": f"Bearer {EC.token(claims(clock.seconds, sub='alice', scope='read write'))}"}
        await alice.ask("PUT", PATH, json=BODY)
        assert (await client.get(PATH, headers=headers)).status == 404
        assert (await client.put("/guid/" + "A" * 32, BODY, headers=headers)).status == 201
        assert (await same_owner.ask("GET", "/guid/" + "A" * 32)).status == 200
        assert (await alice.ask("GET", "/guid/" + "A" * 32)).status == 404


async def test_token_of_unknown_key_is_rejected_and_logged(serving: Serving, clock: FakeClock, tmp_path: Path) -> None:
    """In every kind of request: any client can send one, and honest clients do while signing keys are rotated."""
    jwks, audit_log = tmp_path / "jwks.json", tmp_path / "audit.log"
    jwks.write_bytes(key_set(EC.jwk()))
    settings = {"jwt_jwks": str(jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "audit_log": str(audit_log)}
    async with serving(access="keys", **settings) as client:
        headers = {"Authorization": f"Bearer {EC.token(claims(clock.seconds), kid='other')}"}
        requests = [("GET", PATH), ("PUT", PATH), ("DELETE", PATH), ("GET", "/guid"), ("POST", "/guid:batch"),
                    ("GET", "/keys"), ("GET", "/metrics")]  # fmt: skip
        for method, path in requests:
            reply = await client.ask(method, path, headers=headers, json=BODY if method in {"PUT", "POST"} else None)
            assert (reply.status, reply.json["code"]) == (401, "unauthorized")
            assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]
    lines = [json.loads(line) for line in audit_log.read_text().splitlines()]
    assert [(line["action"], line["reason"]) for line in lines] == [("denied", "unauthorized")] * len(requests)


@pytest.mark.parametrize("path", ["/guid", PATH])
async def test_failed_logins_take_no_slots_from_others(
    serving: Serving, sqlite_url: str, path: str, clock: FakeClock
) -> None:
    """Although a failed login waits before its response."""
    limits = {"max_in_progress": 1, "queue_timeout": 1.0, "login_limit": ""}
    async with serving(access="keys", **limits) as client:
        alice = await SecuredService(client, sqlite_url, clock).key_client("alice")
        assert (await alice.ask("PUT", path, json=BODY)).status == 201
        strangers = [
            asyncio.create_task(client.put(path, BODY, headers={"Authorization": "Bearer nonsense"})) for _ in range(40)
        ]
        for _ in range(4):
            assert (await alice.ask("PUT", path, json=BODY)).status in {200, 201}
        assert {(await task).status for task in strangers} == {401}
