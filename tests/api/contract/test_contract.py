"""The HTTP contract, line by line, on each combination of store and cache.

Each line starts with one live record, `GUID`, one expired record, `OLD`, and nothing else.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID
from tests.support.http_client import Client, Reply

pytestmark = [pytest.mark.both_servers, pytest.mark.all_backends]

OLD = "00000000000000000000000000000001"
NEW = "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
LIVE = {"guid": GUID, "expire": "4102444800", "user": "Zürich", "metadata": {"a": 1, "b": {"c": 2}}}
JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}
PATCH = {"Content-Type": "application/merge-patch+json"}
STREAM = {"Accept": "application/x-ndjson"}

Check = Callable[[Reply], object]


class Line(NamedTuple):
    """A line of the contract: a request, the status of its response, and a check of the response."""

    line: str
    method: str
    path: str
    status: int
    check: Check = lambda _: True
    body: object = None
    headers: Mapping[str, str] = {}
    body_before: object = None
    """The body of the same request that is sent before; None if there is none."""


def code(expected: str) -> Check:
    """Check that the response is this problem."""
    return lambda reply: (
        reply.headers["Content-Type"] == "application/problem+json"
        and list(reply.json)[:6] == ["type", "title", "status", "code", "detail", "request_id"]
        and (reply.json["code"], reply.json["type"]) == (expected, f"/problems/{expected}")
        and reply.json["status"] == reply.status
        and reply.json["request_id"] == reply.headers["X-Request-Id"]
    )


def fault(location: str, kind: str = "pointer") -> Check:
    """Check that the response reports this fault, and no other."""
    return lambda reply: (
        code("invalid-request")(reply) and [error.get(kind) for error in reply.json["errors"]] == [location]
    )


def header(name: str, pattern: str) -> Check:
    """Check that the response has this header."""
    return lambda reply: re.fullmatch(pattern, reply.headers.get(name, ""))


def record(**members: object) -> Check:
    """Check that the response is the live record with these members changed."""
    return lambda reply: reply.json == LIVE | members


def statuses(*expected: int) -> Check:
    """Check the statuses of the operations of a batch."""

    def check(reply: Reply) -> bool:
        lines = reply.headers["Content-Type"] == "application/x-ndjson"
        return tuple(result["status"] for result in (reply.lines if lines else reply.json["results"])) == expected

    return check


def all_of(*checks: Check) -> Check:
    """Check all of these."""
    return lambda reply: all(check(reply) for check in checks)


def put(member: str, value: object, status: int = 400) -> Line:
    """Return the line of a PUT of one member."""
    line = f"{member} {json.dumps(value)[:40]}"
    check = fault(f"/{member}") if status != 200 else header("ETag", '"[0-9]+"')
    return Line(line, "PUT", f"/guid/{GUID}", status, check, {member: value})


def deep(levels: int) -> object:
    """Return an object with this number of levels."""
    return {} if levels == 1 else {"a": deep(levels - 1)}


AT, EXPIRED, FRESH = f"/guid/{GUID}", f"/guid/{OLD}", f"/guid/{NEW}"
ALL_RECORDS = "/guid?state=all&view=full"
"""All records, with their versions."""
MINIMAL = {"Prefer": "return=minimal"}
TAG = header("ETag", '"[0-9]{13}"')

THE_RECORD = [
    Line("three members in this order, metadata after them, UTF-8", "GET", AT, 200,
         lambda r: r.body.startswith('{"guid":"%s","expire":"4102444800","user":"Zürich","metadata":{'.encode() % GUID.encode())),
    Line("ETag is the version", "GET", AT, 200, TAG),
    Line("Last-Modified", "GET", AT, 200, header("Last-Modified", "[A-Z][a-z]{2}, .* GMT")),
    Line("Cache-Control", "GET", AT, 200, header("Cache-Control", "private, no-cache")),
    Line("view=full", "GET", f"{AT}?view=full", 200,
         lambda r: list(r.json)[4:] == ["created", "updated", "version", "purge_at", "renew_at", "max_expire", "state", "owner"] and r.json["state"] == "live"),
]  # fmt: skip
A_BODY = [
    *(put("expire", value, 200) for value in ("0", "4102444800", 0, 253402300799, "253402300799", "007")),
    *(put("expire", value) for value in (True, 1.5, 1e3, "1e3", "-1", -1, "+1", " 1", "1_0", "١", None, 253402300800, "")),
    *(put("user", value, 200) for value in ("x", "x" * 256)),
    *(put("user", value) for value in ("", " ", "x" * 257, "a\nb", 1, None)),
    *(put("metadata", value, 200) for value in ({}, {"a": [1.5, None, True]}, deep(8), {"a": "x" * (16 * 1024 - 8)})),
    *(put("metadata", value) for value in ([], "x", None, deep(9), {"a": "x" * (16 * 1024 - 7)})),
    put("guid", GUID, 200),
    *(put("guid", value) for value in (NEW, GUID.lower(), None)),
    put("colour", "red"),
    *(Line(f"{name}, which the service sets", method, AT, 400,
           all_of(fault(f"/{name}"), lambda r: "view=full" in r.json["errors"][0]["detail"]), {name: "1"})
      for name in ("created", "updated", "version", "purge_at", "state", "owner") for method in ("PUT", "PATCH")),
    *(Line(f"not a JSON object: {body!r}", "PUT", AT, 400, fault(""), body)
      for body in (b'{"user": "a",}', b'{"expire": NaN}', b'{"user": "\xff"}', b"[]", b'"x"', b"")),
    Line("all that is wrong at once", "PUT", AT, 400, lambda r: len(r.json["errors"]) == 3, {"user": "", "expire": "", "x": 1}),
    Line("over 64 KiB", "PUT", AT, 413, code("too-large"), {"user": "x" * 65536}),
    Line("curl's default type", "PUT", AT, 200, body=b"{}", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Line("no type", "PUT", AT, 200, body=b"{}"),
    Line("no type, PATCH", "PATCH", AT, 200, body=b"{}"),
    Line("another type", "PUT", AT, 415, code("unsupported-media-type"), b"{}", {"Content-Type": "text/plain"}),
    Line("another type, PATCH", "PATCH", AT, 415, header("Accept-Patch", "application/merge-patch.json, application/json"),
         b"{}", {"Content-Type": "text/plain"}),
]  # fmt: skip
METHODS = [
    Line("PUT creates", "PUT", FRESH, 201, header("Location", FRESH), {"user": "a"}),
    Line("PUT merges", "PUT", AT, 200, record(user="b"), {"user": "b"}),
    Line("creating needs user", "PUT", FRESH, 400, fault("/user"), {}),
    Line("PUT /guid", "PUT", "/guid", 201, header("Location", "/guid/[0-9A-F]{12}4[0-9A-F]{3}[89AB][0-9A-F]{15}"), {"user": "a"}),
    Line("POST /guid", "POST", "/guid", 201, header("Location", "/guid/[0-9A-F]{32}"), {"user": "a"}),
    Line("GET", "GET", AT, 200, record()),
    Line("HEAD", "HEAD", AT, 200, all_of(TAG, lambda r: r.body == b"")),
    Line("PATCH merges", "PATCH", AT, 200, record(metadata={"b": {"c": 3}}), {"metadata": {"a": None, "b": {"c": 3}}}, PATCH),
    Line("PATCH null removes metadata", "PATCH", AT, 200, lambda r: "metadata" not in r.json, {"metadata": None}, PATCH),
    Line("PATCH never creates", "PATCH", FRESH, 404, code("not-found"), {"user": "a"}, PATCH),
    Line("DELETE", "DELETE", AT, 204, lambda r: r.body == b""),
    Line("DELETE of an expired one", "DELETE", EXPIRED, 204),
    Line("OPTIONS", "OPTIONS", AT, 204, header("Allow", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS")),
    Line("another method", "POST", AT, 405, all_of(code("method-not-allowed"), header("Allow", "GET, .*")), {}),
    Line("an unknown path", "GET", "/nothing", 404, code("not-found")),
    Line("/livez", "GET", "/livez", 200),
    Line("/readyz", "GET", "/readyz", 200, lambda r: r.json["status"] == "ready"),
    Line("/version", "GET", "/version", 200),
    Line("/", "GET", "/", 200, lambda r: {"name", "version", "links"} <= r.json.keys()),
    Line("/openapi.json", "GET", "/openapi.json", 200, lambda r: r.json["openapi"].startswith("3.1")),
    Line("/docs", "GET", "/docs", 200, header("Content-Security-Policy", "default-src 'none'.*")),
    Line("/problems", "GET", "/problems", 200, lambda r: {"code", "status", "when"} <= r.json["problems"][0].keys()),
    Line("/problems/{code}", "GET", "/problems/expired", 200, lambda r: (r.json["code"], r.json["status"]) == ("expired", 410)),
]  # fmt: skip
PRECONDITIONS = [
    Line("If-None-Match: * creates only", "PUT", AT, 412, all_of(code("precondition-failed"), TAG, lambda r: r.json["record"] == LIVE),
         {"user": "b"}, {"If-None-Match": "*"}),
    Line("If-None-Match: * creates", "PUT", FRESH, 201, body={"user": "b"}, headers={"If-None-Match": "*"}),
    *(Line(f"If-Match of another, {method}", method, AT, 412, TAG if method == "HEAD" else code("precondition-failed"),
           None if method in {"GET", "HEAD", "DELETE"} else {"user": "b"}, {"If-Match": '"1", W/"2"'})
      for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE")),
    *(Line(f"If-Match: *, {method}", method, AT, 204 if method == "DELETE" else 200, headers={"If-Match": "*"},
           body=None if method in {"GET", "DELETE"} else {"user": "b"}) for method in ("GET", "PUT", "PATCH", "DELETE")),
    Line("If-None-Match: *, GET", "GET", AT, 304, all_of(TAG, lambda r: r.body == b""), headers={"If-None-Match": "*"}),
    Line("If-Match of nothing", "PUT", FRESH, 412, body={"user": "b"}, headers={"If-Match": "*"}),
]  # fmt: skip
LISTS = [
    Line("live ones", "GET", "/guid", 200, lambda r: r.json == {"items": [LIVE], "next": None}),
    Line("state=expired", "GET", "/guid?state=expired", 200, lambda r: [i["guid"] for i in r.json["items"]] == [OLD]),
    Line("state=all, in key order", "GET", "/guid?state=all", 200, lambda r: [i["guid"] for i in r.json["items"]] == [OLD, GUID]),
    Line("user", "GET", "/guid?user=Z%C3%BCrich", 200, lambda r: r.json["items"] == [LIVE]),
    Line("owner", "GET", "/guid?owner=", 200, lambda r: r.json["items"] == [LIVE]),
    Line("another owner", "GET", "/guid?owner=x", 200, lambda r: r.json["items"] == []),
    Line("expires_before", "GET", "/guid?expires_before=4102444800", 200, lambda r: r.json["items"] == []),
    Line("expires_after", "GET", "/guid?expires_after=4102444799", 200, lambda r: r.json["items"] == [LIVE]),
    Line("next and Link", "GET", "/guid?state=all&limit=1", 200,
         lambda r: r.headers["Link"] == f'</guid?state=all&limit=1&cursor={r.json["next"]}>; rel="next"'),
    Line("an unknown parameter", "GET", "/guid?page=1", 400, fault("page", "parameter")),
    Line("a bad cursor", "GET", "/guid?cursor=x", 400, fault("cursor", "parameter")),
    Line("more is cut down", "GET", "/guid?limit=501", 200),
    Line("return=total-count", "GET", "/guid?state=all&limit=1", 200, lambda r: r.json["total"] == 2,
         headers={"Prefer": "return=total-count"}),
    Line("a stream", "GET", "/guid?state=all", 200, lambda r: [i["guid"] for i in r.lines] == [OLD, GUID], headers=STREAM),
]  # fmt: skip
BATCH = [
    Line("each has a result, in order", "POST", "/guid:batch", 200, statuses(201, 200, 204, 404, 400),
         {"operations": [{"guid": NEW, "user": "a"}, {"op": "get", "guid": NEW}, {"op": "delete", "guid": NEW},
                         {"op": "get", "guid": NEW}, {}]}),
    Line("a result has status, guid, etag, record", "POST", "/guid:batch", 200,
         lambda r: list(r.json["results"][0]) == ["status", "guid", "etag", "record"], {"operations": [{"user": "a"}]}),
    Line("its own preconditions", "POST", "/guid:batch", 200, statuses(412, 412),
         {"operations": [{"guid": GUID, "user": "a", "if_none_match": "*"}, {"op": "delete", "guid": GUID, "if_match": '"1"'}]}),
    *(Line(f"a put of a revoked one needs an expiry{query}", "POST", f"/guid:batch{query}", 200, statuses(410, 200, 200),
           {"operations": [{"guid": OLD, "user": "a"}, {"guid": OLD, "expire": 4102444800}, {"guid": OLD, "user": "a"}]})
      for query in ("", "?validate_only=true")),
    *(Line(f"in lines too{query}", "POST", f"/guid:batch{query}", 200,
           all_of(statuses(410, 200, 200), lambda r: r.lines[0]["problem"]["line"] == 1),
           b'{"guid": "%b", "user": "a"}\n{"guid": "%b", "expire": 1}\n{"guid": "%b", "expire": "4102444800"}\n'
           % ((OLD.encode(),) * 3), LINES)
      for query in ("", "?validate_only=true")),
    Line("more than 1,000", "POST", "/guid:batch", 400, fault("/operations"), {"operations": [{}] * 1001}),
    Line("lines of view=full are refused with a hint", "POST", "/guid:batch", 200,
         all_of(statuses(400), lambda r: [(e["pointer"], "view=full" in e["detail"]) for e in r.lines[0]["problem"]["errors"]]
              == [("/state", True), ("/owner", False)]),
         b'{"guid": "%b", "user": "a", "state": "live", "owner": "b"}\n' % NEW.encode(), LINES),
    Line("lines, and a bad one by its number", "POST", "/guid:batch", 200,
         all_of(statuses(201, 400, 200), lambda r: r.lines[1]["problem"]["line"] == 2),
         b'{"user": "a"}\n{bad}\n{"op": "get", "guid": "%b"}\n' % GUID.encode(), LINES),
    Line("validate_only", "POST", "/guid:batch?validate_only=true", 200, statuses(204, 404),
         {"operations": [{"op": "delete", "guid": GUID}, {"op": "get", "guid": GUID}]}),
]  # fmt: skip
KEY = {"Idempotency-Key": "k"}
RETRIES = [
    Line("a key", "POST", "/guid", 201, lambda r: "Idempotent-Replayed" not in r.headers, {"user": "a"}, KEY),
    Line("the same key and body", "POST", "/guid", 201, all_of(TAG, header("Idempotent-Replayed", "true")), {"user": "a"},
         KEY, body_before={"user": "a"}),
    Line("the same key, another body", "POST", "/guid", 422, code("idempotency-mismatch"), {"user": "a"}, KEY,
         body_before={"user": "b"}),
    Line("minimal, updated", "PUT", AT, 204, all_of(TAG, lambda r: r.body == b""), {"user": "b"}, MINIMAL),
    Line("minimal, created", "PUT", FRESH, 201, all_of(TAG, lambda r: r.body == b""), {"user": "b"}, MINIMAL),
]  # fmt: skip
ERRORS = [
    *(Line(f"a GUID written as {text}", "GET", f"/guid/{text}", 400, all_of(code("invalid-guid"), lambda r: GUID in r.json["detail"]))
      for text in (GUID.lower(), f"%7B{GUID}%7D", "9094e4c9-80c7-4043-a4b5-86b420e69ddf")),
    Line("no GUID", "GET", "/guid/x", 400, code("invalid-guid")),
    Line("unknown", "GET", FRESH, 404, code("not-found")),
    Line("expired", "GET", EXPIRED, 410, all_of(code("expired"), lambda r: {"expired_at", "renewable_until"} <= r.json.keys())),
    *(Line(f"{method} of a revoked one needs an expiry", method, EXPIRED, 410,
           all_of(code("expired"), lambda r: 'with a future "expire"' in r.json["detail"]), {"user": "b"})
      for method in ("PUT", "PATCH")),
    *(Line(f"{method} of a revoked one that has one", method, EXPIRED, 200, body={"expire": "4102444800"})
      for method in ("PUT", "PATCH")),
    *(Line(f"412 comes before 410, {method}", method, EXPIRED, 412, code("precondition-failed"), {"user": "b"}, {"If-Match": '"1"'})
      for method in ("PUT", "PATCH")),
    Line("X-Request-Id, the caller's", "GET", "/nothing", 404, header("X-Request-Id", "mine-1"), headers={"X-Request-Id": "mine-1"}),
    Line("X-Request-Id, where it is not sane", "GET", AT, 200, header("X-Request-Id", "[0-9a-f]{32}"),
         headers={"X-Request-Id": "not sane"}),
]  # fmt: skip
CONTRACT = [*THE_RECORD, *A_BODY, *METHODS, *PRECONDITIONS, *LISTS, *BATCH, *RETRIES, *ERRORS]


REQUIRED = [
    Line("a PUT of what is there", "PUT", AT, 428, code("precondition-required"), {"user": "b"}),
    Line("a PATCH", "PATCH", AT, 428, code("precondition-required"), {"user": "b"}, PATCH),
    Line("a DELETE", "DELETE", AT, 428, code("precondition-required")),
    Line("a creation", "PUT", FRESH, 201, body={"user": "b"}),
    Line("with one", "PUT", AT, 200, body={"user": "b"}, headers={"If-Match": "*"}),
]


async def ask(client: Client, line: Line, key: str) -> Reply:
    """Send the request of a line, with an idempotency key of its own if it has one."""
    headers = dict(line.headers) | ({"Idempotency-Key": key} if "Idempotency-Key" in line.headers else {})
    if line.body_before is not None:
        await client.ask(line.method, line.path, headers=headers, json=line.body_before)
    body: dict[str, Any] = {"body": line.body} if isinstance(line.body, bytes) else {"json": line.body}
    return await client.ask(line.method, line.path, headers=headers, **body)


async def reset_records(client: Client, clock: FakeClock) -> bytes:
    """Reset the store to the live and the expired record; return the list of all records."""
    for record in (await client.get(ALL_RECORDS, headers=STREAM)).lines:
        assert (await client.delete(f"/guid/{record['guid']}", headers={"If-Match": "*"})).status == 204
    assert (await client.put(AT, LIVE)).status == 201
    assert (await client.put(EXPIRED, {"user": "past", "expire": clock.seconds})).status == 201
    return (await client.get(ALL_RECORDS, headers=STREAM)).body


async def violations(client: Client, clock: FakeClock, contract: list[Line]) -> list[object]:
    """Return the lines that do not hold, with their responses."""
    failed: list[object] = []
    start = await reset_records(client, clock)
    for index, line in enumerate(contract):
        reply = await ask(client, line, f"key-{index}")
        if reply.status != line.status or not line.check(reply):
            failed.append((line.line, line.method, line.path, reply))
        if (await client.get(ALL_RECORDS, headers=STREAM)).body != start:  # most lines change nothing
            start = await reset_records(client, clock)
    return failed


async def test_contract_holds_line_by_line(client: Client, clock: FakeClock) -> None:
    assert await violations(client, clock, CONTRACT) == []


async def test_contract_holds_with_required_preconditions(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(require_preconditions=True, **combination) as client:
        assert await violations(client, clock, REQUIRED) == []
