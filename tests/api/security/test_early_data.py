"""Early data of TLS (RFC 8470): a change that a proxy forwards from it may be a replay, and is not executed."""

import pytest

from tests.conftest import Serving
from tests.support.factories import GUID
from tests.support.http_client import Reply

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}"
EARLY = {"Early-Data": "1"}


def is_refused(reply: Reply) -> bool:
    return (reply.status, reply.json["code"]) == (425, "too-early")


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
@pytest.mark.parametrize("value", ["1", "0", "", "1, 1"])
async def test_change_in_early_data_is_refused(serving: Serving, value: str, key: dict[str, str]) -> None:
    headers = {"Early-Data": value, **key}
    async with serving() as client:
        assert is_refused(await client.put(PATH, {"user": "a"}, headers=headers))
        assert (await client.get("/guid")).json["items"] == []
        await client.put(PATH, {"user": "kept"})
        for method in ("POST", "PUT", "PATCH"):
            assert is_refused(await client.ask(method, PATH, json={"user": "b"}, headers=headers)), method
        assert is_refused(await client.ask("DELETE", PATH, headers=headers))
        for path in ("/guid", "/guid:batch", f"{PATH}:renew", f"{PATH}:revoke", "/keys", "/unknown"):
            assert is_refused(await client.ask("POST", path, json={"user": "b"}, headers=headers)), path

        assert (await client.get(PATH)).json["user"] == "kept"
        assert len((await client.get("/guid")).json["items"]) == 1


async def test_read_in_early_data_is_served(serving: Serving) -> None:
    async with serving() as client:
        record = (await client.put(PATH, {"user": "a"})).json
        for _ in range(3):  # from the store, then from the cache
            assert (await client.get(PATH, headers=EARLY)).json == record
            assert (await client.get(PATH)).json == record
        assert (await client.ask("HEAD", PATH, headers=EARLY)).status == 200
        assert (await client.ask("OPTIONS", PATH, headers=EARLY)).status == 204


async def test_same_request_is_executed_without_the_header(serving: Serving) -> None:
    key = {"Idempotency-Key": "a"}
    async with serving() as client:
        assert is_refused(await client.post("/guid", {"user": "a"}, headers=EARLY | key))

        assert (await client.post("/guid", {"user": "a"}, headers=key)).status == 201
