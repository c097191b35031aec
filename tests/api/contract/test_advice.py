"""What errors advise, where that depends on the time, the stored record or the settings."""

import re
import time

import pytest

from tests.conftest import Serving
from tests.support.factories import GUID

AT = f"/guid/{GUID}"


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * 86400), ("+5 hours", 5 * 3600), ("90s", 90)])
async def test_duration_is_answered_with_its_unix_time(serving: Serving, text: str, seconds: int) -> None:
    async with serving() as client:
        before = int(time.time())
        reply = await client.put(AT, {"user": "a", "expire": text})
        found = re.fullmatch(
            rf"`expire` must be a time, not a duration; {re.escape(text.lstrip('+'))} from now is ([0-9]+)\.",
            reply.json["detail"],
        )
        assert found is not None, reply.json["detail"]
        assert before + seconds <= int(found[1]) <= time.time() + seconds


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


async def test_wrong_host_is_answered_with_the_flag(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.get(AT, headers={"Host": "registry.local"})
        assert reply.status == 421
        assert reply.json["detail"].endswith("or start it with --hosts registry.local, for example.")


async def test_keys_without_access_are_answered_with_the_flag(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.get("/keys")
        assert reply.status == 403
        assert "start the service with --access keys" in reply.json["detail"]


async def test_missing_key_is_answered_with_a_command(serving: Serving) -> None:
    async with serving(access="keys") as client:
        reply = await client.get(AT)
        assert reply.status == 401
        assert reply.json["detail"].endswith("To create one: pdapt.py keys create --owner NAME")
