"""Advice in errors that depends on the time, the stored record or the settings."""

import re
import time

import pytest

from guidsvc.domain.api_key import generate
from guidsvc.store import open_keys
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID
from tests.support.http_client import raw

AT = f"/guid/{GUID}"


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * 86400), ("+5 hours", 5 * 3600), ("90s", 90)])
async def test_duration_is_answered_with_its_unix_time(serving: Serving, text: str, seconds: int) -> None:
    async with serving() as client:
        time_before = int(time.time())
        reply = await client.put(AT, {"user": "a", "expire": text})
        match = re.fullmatch(
            rf"`expire` must be a time, not a duration; {re.escape(text.lstrip('+'))} from now is ([0-9]+)\.",
            reply.json["detail"],
        )
        assert match is not None, reply.json["detail"]
        assert time_before + seconds <= int(match[1]) <= time.time() + seconds


async def test_advice_about_members_of_the_service_comes_once(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.put(AT, {"user": "a", "state": "live", "version": "1"})
        first, second = (fault["detail"] for fault in reply.json["errors"])
        assert first == f"{second}. Responses without view=full contain only members that can be sent back"


async def test_failed_precondition_says_what_to_send(serving: Serving) -> None:
    async with serving() as client:
        version = (await client.put(AT, {"user": "a"})).headers["ETag"]
        exists = await client.put(AT, {"user": "b"}, headers={"If-None-Match": "*"})
        stale = await client.put(AT, {"user": "b"}, headers={"If-Match": '"1"'})
        assert exists.json["detail"] == f"GUID {GUID} already exists; leave If-None-Match out to update it."
        number = version.strip('"')
        assert (
            stale.json["detail"] == f"GUID {GUID} is at version {number}; read it again and send If-Match: {version}."
        )


LOST = "If you held it as a lease, you have lost it: stop what depends on it."


async def test_failed_renewal_says_that_the_lease_is_lost(serving: Serving, clock: FakeClock) -> None:
    async with serving() as client:
        absent = await client.post(f"{AT}/renewal", {})
        assert absent.json["detail"] == f"No GUID {GUID} is registered. {LOST} To acquire it again, PUT it."
        await client.put(AT, {"user": "a", "ttl": 60})
        tag = (await client.put(AT, {"user": "b"})).headers["ETag"]
        changed = await client.post(f"{AT}/renewal", {}, headers={"If-Match": '"1"'})
        assert changed.json["detail"] == (
            f"GUID {GUID} has changed, and is at version {tag[1:-1]}. If `record` belongs to another holder, you have "
            f"lost the lease: stop what depends on it. If it is your own, renew it with If-Match: {tag}."
        )
        clock.advance(seconds=60)
        expired = (await client.post(f"{AT}/renewal", {})).json["detail"]
        assert f'Z. {LOST} To make it valid again, renew it with "revive": true, before ' in expired
        await client.put(AT, {"user": "b", "expire": 0})
        revoked = (await client.post(f"{AT}/renewal", {"revive": True})).json["detail"]
        assert f'{LOST} To make it valid again, renew it with "revive": true and a "ttl", before ' in revoked


async def test_failed_renewal_without_scope_read_shows_no_record(serving: Serving, sqlite_url: str) -> None:
    key, text = generate("alice", ["write"], 0)
    async with open_keys(sqlite_url) as api_keys:
        await api_keys.swap(None, key)
    authorization = {"Authorization": f"Bearer {text}"}
    async with serving(access="keys", store_url=sqlite_url) as client:
        await client.put(AT, {"user": "a", "ttl": 60}, headers=authorization)
        reply = await client.post(f"{AT}/renewal", {}, headers={"If-Match": '"1"', **authorization})
        assert reply.status == 412
        assert reply.json["detail"].endswith(LOST)


HOSTS = {
    "page.example": "page.example. On",
    "Page.Example:8888": "Page.Example. On",
    "page.example.": "page.example. On",
    "10.0.0.5:80": "10.0.0.5. On",
    "[2001:db8::1]:80": "[2001:db8::1]. On",
    "": "of this request (it is empty). On",
    "a" * 200: "of this request (not shown: it is not a plain host name). On",
    "gs_0123456789ab_secret": "of this request (not shown: it is not a plain host name). On",
    "page:example": "of this request (not shown: it is not a plain host name). On",
}
"""The text about a host name that is not accepted."""


@pytest.mark.parametrize("host", HOSTS)
async def test_wrong_host_is_answered_with_its_name_and_the_flag(serving: Serving, host: str) -> None:
    async with serving() as client:
        reply = await client.get(AT, headers={"Host": host})
        assert reply.status == 421
        assert reply.json["detail"].startswith(
            f"The service does not accept the host name {HOSTS[host]} its own machine"
        )
        name = HOSTS[host].removesuffix(". On")
        flag = f"--hosts {'registry.example' if ' ' in name else name} (GUIDSVC_HOSTS)."
        assert reply.json["detail"].endswith(flag)


async def test_wrong_host_of_the_target_is_named(serving: Serving) -> None:
    async with serving() as client:
        reply = await raw(client, f"GET http://page.example:80{AT} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert reply.status == 421
        assert "--hosts page.example " in reply.json["detail"]


async def test_keys_without_access_are_answered_with_the_flag(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.get("/keys")
        assert reply.status == 403
        assert "start the service with --access keys" in reply.json["detail"]


async def test_missing_key_is_answered_with_a_command(serving: Serving) -> None:
    async with serving(access="keys") as client:
        reply = await client.get(AT)
        assert reply.status == 401
        assert reply.json["detail"] == (
            "Authentication is required; send a key as Authorization: Bearer gs_... To create one, run with the "
            "--store-url of this service: guidsvc keys create --owner NAME"
        )


@pytest.mark.parametrize(
    ("expire", "hint"), [(3600, ' For a duration, send "ttl": 3600.'), (0, ""), (1_000_000_000, "")]
)
async def test_expiry_that_looks_like_a_duration_is_explained(serving: Serving, expire: int, hint: str) -> None:
    async with serving() as client:
        assert (await client.put(AT, {"user": "a", "expire": expire})).status == 201
        reply = await client.get(AT)
        assert reply.status == 410
        assert f"Z (created with a past expiry).{hint} To renew it, PUT" in reply.json["detail"]
