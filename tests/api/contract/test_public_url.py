"""With the setting public_url, the `type` of every error is a URL; without it, it is a path. Host changes neither."""

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID
from tests.support.http_client import Client, Reply, raw

pytestmark = pytest.mark.both_servers

AT = f"/guid/{GUID}"
URL = "https://registry.example/guids"
HTML = {"Accept": "text/html"}
LINES = {"Content-Type": "application/x-ndjson"}
BATCH = {"operations": [{"op": "get", "guid": GUID}, {"op": "delete"}]}


async def errors_of(client: Client) -> list[Reply]:
    """Return errors of the fast path, of handlers, of the server, and for other host names."""
    return [
        await client.get(AT),
        await client.get(AT),  # the second one skips the parser
        await client.put(AT, {"user": 1}),
        await client.get("/nothing"),
        await client.post("/livez", {}),
        await client.get("/livez", headers={"Host": "evil.example"}),
        await client.get(AT, headers={"Host": "a"}),
    ]


async def types_of(client: Client) -> list[str]:
    """Return the `type` of errors, those of operations included, without the code at its end."""
    replies = [reply.json for reply in await errors_of(client)]
    document = await client.post("/guid:batch", BATCH)
    lines = await client.post("/guid:batch", body=b'{"op": "delete"}\nx\n', headers=LINES)
    replies += [result["problem"] for result in [*document.json["results"], *lines.lines]]
    assert len(replies) == 11
    assert all(problem["type"].endswith(f"/{problem['code']}") for problem in replies)
    return sorted({problem["type"].removesuffix(problem["code"]) for problem in replies})


async def test_type_is_a_url_with_the_setting(serving: Serving) -> None:
    async with serving(public_url=f"{URL}/") as client:
        assert await types_of(client) == [f"{URL}/problems/"]


async def test_type_is_a_path_without_the_setting(serving: Serving) -> None:
    async with serving() as client:
        assert await types_of(client) == ["/problems/"]


@pytest.mark.parametrize("server", ["httptools"], indirect=True)
async def test_type_of_malformed_request_is_a_url_too(serving: Serving) -> None:
    async with serving(public_url=URL) as client:
        for request in (b"GET / HTTP/1.1\r\nHost: a\r\nHost: evil.example\r\n\r\n", b"NONSENSE\r\n\r\n"):
            assert (await raw(client, request)).json["type"] == f"{URL}/problems/invalid-request"


@pytest.mark.parametrize("url", [URL, ""])
async def test_listed_and_explained_types_are_those_of_errors(serving: Serving, url: str) -> None:
    async with serving(public_url=url) as client:
        not_found = (await client.get(AT)).json["type"]
        problems = (await client.get("/problems")).json["problems"]
        assert not_found in [problem["type"] for problem in problems]
        assert {problem["type"].removesuffix(problem["code"]) for problem in problems} == {f"{url}/problems/"}
        assert (await client.get("/problems/not-found")).json["example"]["type"] == not_found
        page = await client.get("/problems/not-found", headers=HTML)
        assert f"&quot;{not_found}&quot;" in page.body.decode()


async def test_commands_on_pages_use_the_url(serving: Serving, clock: FakeClock, sqlite_url: str) -> None:
    """Behind a proxy that adds a path, the address of the request leads to another place."""
    async with serving(clock=clock, store_url=sqlite_url, access="keys", public_url=URL) as client:
        index, rejected = [await client.get(path, headers=HTML) for path in ("/", "/guid?state=all")]
        assert f"{URL}/guid</code>" in index.body.decode()
        assert f"{URL}/guid?state=all&#x27;</code>" in rejected.body.decode()


async def test_described_type_matches_path_and_url(serving: Serving) -> None:
    async with serving() as client:
        schemas = (await client.get("/openapi.json")).json["components"]["schemas"]
        pattern = schemas["ExpiredProblem"]["properties"]["type"]["pattern"]
        assert pattern == "^(https?://[^?#]+)?/problems/expired$"
