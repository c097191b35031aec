"""TLS early data (RFC 8470): a change that a proxy forwards from it may be a replay, and is not executed."""

import pytest

from tests.conftest import Serving
from tests.support.factories import GUID
from tests.support.http_client import Reply, raw

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
        for path in ("/guid", "/guid:batch", f"{PATH}/renewal", "/keys", "/unknown"):
            assert is_refused(await client.ask("POST", path, json={"user": "b"}, headers=headers)), path
        assert is_refused(await client.ask("BREW", PATH, headers=headers))

        assert (await client.get(PATH)).json["user"] == "kept"
        assert len((await client.get("/guid")).json["items"]) == 1


async def test_remembered_renewal_in_early_data_is_refused(serving: Serving) -> None:
    terms = {"ttl": 60, "if_below": 30}
    async with serving() as client:
        await client.put(PATH, {"user": "a", "ttl": 60})
        for _ in range(3):  # the same bytes again, which the fast path remembers
            assert (await client.post(f"{PATH}/renewal", terms)).status == 200
            assert is_refused(await client.post(f"{PATH}/renewal", terms, headers=EARLY))


@pytest.mark.parametrize(
    "head",
    [
        f"PUT http://localhost{PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
        f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nearly-data:1\r\n",
        "POST /guid:batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n",
    ],
    ids=["absolute target", "two headers", "lines"],
)
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_other_forms_of_changes_in_early_data_are_refused(serving: Serving, head: str, is_chunked: bool) -> None:
    line = f'{{"op":"put","guid":"{GUID}","user":"a"}}\n' if "ndjson" in head else '{"user":"a"}'
    body = f"Transfer-Encoding: chunked\r\n\r\n{len(line):x}\r\n{line}\r\n0\r\n\r\n"
    if not is_chunked:
        body = f"Content-Length: {len(line)}\r\n\r\n{line}"
    async with serving() as client:
        assert is_refused(await raw(client, f"{head}Early-Data: 1\r\n{body}".encode()))
        assert (await client.get(PATH)).status == 404


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
