"""CORS: pages of allowed origins may use the service; other origins get no CORS headers."""

import re
from collections.abc import Awaitable

import pytest

from guidsvc.api.base.handler import Handler
from guidsvc.errors import StartError
from guidsvc.http.headers.cors import Cors
from tests.conftest import Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Reply

pytestmark = pytest.mark.both_servers

A, B, OTHER = "https://a.example", "http://b.example:8080", "https://evil.example"
BOTH = f"{A}, {B}"
AT = f"/guid/{GUID}"


def cors_headers_of(reply: Reply) -> dict[str, str]:
    """Return the CORS headers of a response."""
    return {name: value for name, value in reply.headers.get_all() if name.lower().startswith("access-control-")}


def preflight(origin: str, method: str = "PUT") -> dict[str, str]:
    """Return the headers of a preflight request by a browser."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,if-match",
    }


@pytest.mark.parametrize("origin", [A, B])
async def test_allowed_origin_may_use_the_methods_of_a_path(serving: Serving, origin: str) -> None:
    async with serving(cors_origins=BOTH) as client:
        for path, methods in ((AT, {"GET", "PUT", "PATCH", "DELETE"}), ("/guid", {"GET", "POST"}), ("/livez", {"GET"})):
            reply = await client.ask("OPTIONS", path, headers=preflight(origin))
            cors_headers = cors_headers_of(reply)
            assert reply.status == 204
            assert cors_headers["Access-Control-Allow-Origin"] == origin
            assert set(cors_headers["Access-Control-Allow-Methods"].split(", ")) >= methods
            assert set(cors_headers["Access-Control-Allow-Headers"].lower().split(", ")) == {
                *("authorization", "content-type", "if-match", "if-none-match"),
                *("idempotency-key", "last-event-id", "prefer", "x-request-id"),
            }
            assert cors_headers["Access-Control-Max-Age"] == "600"
            assert reply.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in cors_headers


REQUESTS = [
    ("PUT", AT, 201, {}, b'{"user": "x"}'),
    ("GET", AT, 200, {}, None),
    ("GET", AT, 200, {}, None),
    ("HEAD", AT, 200, {}, None),
    ("GET", AT, 304, {"If-None-Match": "*"}, None),
    ("GET", f"/guid/{'F' * 32}", 404, {}, None),
    ("GET", "/nothing", 404, {}, None),
    ("PUT", AT, 412, {"If-None-Match": "*"}, b"{}"),
    ("PUT", AT, 415, {"Content-Type": "text/plain"}, b"{}"),
    ("GET", "/guid", 200, {}, None),
    ("GET", "/guid", 200, {"Accept": "application/x-ndjson"}, None),
    ("GET", "/problems/expired", 200, {}, None),
    ("GET", "/docs/page.css", 200, {}, None),
    ("DELETE", AT, 204, {}, None),
]


@pytest.mark.parametrize("origin", [A, B])
async def test_allowed_origin_may_read_responses(serving: Serving, origin: str) -> None:
    async with serving(cors_origins=BOTH) as client:
        for method, path, status, headers, body in REQUESTS:
            reply = await client.ask(method, path, headers=headers | {"Origin": origin}, body=body)
            cors_headers = cors_headers_of(reply)
            assert reply.status == status
            assert cors_headers.keys() == {"Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}, path
            assert cors_headers["Access-Control-Allow-Origin"] == origin
            exposed = set(cors_headers["Access-Control-Expose-Headers"].split(", "))
            assert {"ETag", "Location", "Link", "Retry-After", "X-Request-Id"} <= exposed
            assert {"RateLimit", "RateLimit-Policy"} <= exposed
            assert len(reply.headers.get_list("Vary")) == 1
            assert "Origin" in reply.headers["Vary"].split(", ")


OTHERS: list[dict[str, str]] = [
    {"Origin": OTHER},
    {"Origin": "null"},
    {"Origin": "*"},
    {"Origin": A.upper()},
    {"Origin": f"{A}/"},
    {"Origin": f"{A}:443"},
    {"Origin": f"{A}.evil.example"},
    {"Origin": "http://a.example"},
    {"Origin": f"{A}, {B}"},
    {"Origin": A, "origin": A},
    {"Origin": ""},
    {},
]


async def test_other_origins_get_no_cors_headers(serving: Serving) -> None:
    async with serving(cors_origins=BOTH) as client:
        await client.put(AT, {"user": USER})
        preflight_method = {"Access-Control-Request-Method": "PUT"}
        for headers in OTHERS:
            replies = [await client.ask("OPTIONS", AT, headers=headers | preflight_method)]
            replies += [await client.ask("GET", path, headers=headers) for path in (AT, AT, "/guid", "/nothing")]
            assert [reply.status for reply in replies] == [204, 200, 200, 200, 404], headers
            assert [cors_headers_of(reply) for reply in replies] == [{}] * 5, headers


async def test_no_cors_headers_without_allowed_origins(serving: Serving) -> None:
    async with serving() as client:
        for method, path, status, headers, body in REQUESTS:
            reply = await client.ask(method, path, headers=headers | {"Origin": A}, body=body)
            assert (reply.status, cors_headers_of(reply)) == (status, {})
            assert "Origin" not in reply.headers.get("Vary", "")
        assert cors_headers_of(await client.ask("OPTIONS", AT, headers=preflight(A))) == {}


async def test_options_without_method_is_no_preflight(serving: Serving) -> None:
    async with serving(cors_origins=A) as client:
        reply = await client.ask("OPTIONS", AT, headers={"Origin": A})
        assert reply.status == 204
        assert "Access-Control-Allow-Methods" not in cors_headers_of(reply)
        assert "PATCH" in reply.headers["Allow"]


@pytest.mark.parametrize("server", ["httptools"])
async def test_request_without_origin_uses_the_fast_path(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its response has `Vary: Origin`, like that of a handler."""
    handled: list[str | None] = []
    prepare = Handler.prepare

    def recorded_prepare(handler: Handler) -> Awaitable[None] | None:
        handled.append(handler.request.headers.get("Origin"))
        return prepare(handler)

    monkeypatch.setattr(Handler, "prepare", recorded_prepare)
    async with serving(cors_origins=A) as client:
        await client.put(AT, {"user": USER})
        for origin in (None, OTHER, None):
            reply = await client.get(AT, headers={} if origin is None else {"Origin": origin})
            assert reply.headers["Vary"] == "Origin"
    assert handled == [OTHER]


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "*",
            "null",
            "a.example",
            "//a.example",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://*",
        ),
        *(
            "https://*.a.example",
            "HTTPS://a.example",
            "https://A.example",
            "https://u@a.example",
            "https://a.example?x",
        ),
        *(
            "https://a.example:443",
            "http://a.example:80",
            "https://a.example:",
            "https://a.example:0",
            "https://a:65536",
        ),
        *("https://a..example", "https://ä.example", "https://a.example https://b.example", "https://a.example\n"),
    ],
)
def test_invalid_origin_stops_the_start(origin: str) -> None:
    with pytest.raises(StartError, match=re.escape("cors_origins: ")):
        Cors([A, origin])


@pytest.mark.parametrize("origin", [A, B, "http://localhost:3000", "http://[::1]:8080", "https://xn--4ca.example"])
def test_valid_origin_is_accepted(origin: str) -> None:
    assert Cors([origin]).headers_for(origin)["Access-Control-Allow-Origin"] == origin


def sent_by(site: str, mode: str = "no-cors", dest: str = "empty") -> dict[str, str]:
    """Return what a browser says about the page that sends a request."""
    return {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}


REFUSED = [
    ("GET", AT, sent_by("cross-site")),
    ("GET", AT, sent_by("same-site", "cors") | {"Origin": OTHER}),
    ("HEAD", AT, sent_by("cross-site")),
    ("PUT", AT, sent_by("cross-site", "cors") | {"Origin": OTHER}),
    ("POST", "/guid", sent_by("cross-site", "navigate", "iframe")),
    ("GET", "/guid", sent_by("cross-site", dest="image")),
    ("GET", "/events?wait=30", sent_by("same-site")),
    ("GET", "/livez", sent_by("cross-site")),
    ("OPTIONS", AT, sent_by("cross-site", "cors") | preflight(OTHER)),
    ("BREW", "/nothing", sent_by("cross-site")),
]
ACCEPTED = [
    ("GET", AT, sent_by("same-origin", "cors")),
    ("GET", AT, sent_by("none", "navigate", "document")),
    ("GET", AT, sent_by("cross-site", "navigate", "document")),
    ("GET", AT, sent_by("cross-site", "cors") | {"Origin": A}),
    ("OPTIONS", AT, sent_by("cross-site", "cors") | preflight(A)),
    ("GET", AT, {}),
]


async def test_pages_of_other_origins_are_refused_without_keys(serving: Serving) -> None:
    """The first request of each kind is repeated, as the fast path remembers what it has answered."""
    async with serving(cors_origins=A) as client:
        await client.put(AT, {"user": USER})
        for method, path, headers in [*ACCEPTED, *REFUSED, *ACCEPTED]:
            reply = await client.ask(method, path, headers=headers)
            if (method, path, headers) in ACCEPTED:
                assert reply.status in {200, 204}, headers
            else:
                assert reply.status == 403, (method, path, headers)
                assert method == "HEAD" or reply.json["code"] == "forbidden"
        assert (await client.get(AT)).json["user"] == USER


async def test_keys_replace_the_check_of_pages(serving: Serving) -> None:
    async with serving(access="keys") as client:
        assert (await client.ask("GET", "/livez", headers=sent_by("cross-site"))).status == 200
        assert (await client.ask("GET", AT, headers=sent_by("cross-site"))).status == 401
