"""Usual mistakes of a first request, and the error text for each. Read it like a phrase book."""

import json
from typing import Any

from guidsvc.domain.api_key import generate
from tests.conftest import Serving
from tests.support.factories import GUID
from tests.support.mistakes import (
    AT,
    JSON,
    Mistake,
    batch,
    expire,
    get,
    guid,
    header,
    media_type,
    method,
    patch,
    path,
    put,
    renewal,
    unknown,
)

OBJECT = '{"user": "Cylance, Inc."}'
RECORD = '{"expire": "4102444800", "user": "Cylance, Inc."}'
OPERATIONS = '{"operations": [{"user": "Cylance, Inc."}]}'
WHOLE_SECONDS = "must be a whole number of seconds from 1 to 253402300799, as a string of digits or an integer"
MEMBERS = "The known members are `expire`, `guid`, `metadata`, `revive`, `spread`, `ttl` and `user`."
CREATION_MEMBERS = "The known members are `expire`, `guid`, `metadata`, `spread`, `ttl` and `user`"
PARAMETERS = "The known parameters are `cursor`, `expires_after`, `expires_before`, `limit`, `owner`, `sort`, `state`, `user` and `view`."
SECONDS = "must be Unix time in seconds"
RULE = f"{SECONDS}, as a string of digits or an integer, such as 1798761600"
NOTATION = "A GUID is 32 upper-case hexadecimal characters (0-9, A-F); this one has"
CREATION = f"Callers that may write can create it: PUT a body such as {OBJECT} to its path. If that PUT gets 404 too, another owner has it: choose another GUID."
RENEWED = "send `expire`, in Unix seconds, or use PUT, or POST to /guid/{guid}/renewal"
UNNAMED = "remove it. Its name is not shown: it is too long, has special characters or looks like an API key."
BODIES = [
    put("", f"The body is empty; send a JSON object, such as {RECORD}."),
    put("{'user': 'a'}", f"The body is not JSON: names and strings must be in double quotes, not in single quotes, as in {OBJECT} (at line 1 column 2)."),
    put("{\"user\": 'a'}", f"The body is not JSON: names and strings must be in double quotes, not in single quotes, as in {OBJECT} (at line 1 column 10)."),
    put("'{\"user\": \"a\"}'", 'The body is not JSON: it is in single quotes; in Windows cmd, write -d "{\\"user\\": \\"Cylance, Inc.\\"}" (at line 1 column 1).'),
    put('{"user": "a",}', "The body is not JSON: remove the comma that no value follows (at line 1 column 13)."),
    put('{user: "a"}', f"The body is not JSON: names must be in double quotes, as in {OBJECT} (at line 1 column 2)."),
    put('{"user": a}', f"The body is not JSON: strings must be in double quotes, as in {OBJECT} (at line 1 column 10)."),
    put("{“user”: 1}", f'The body is not JSON: names and strings must be in straight double quotes ("), not in curly ones, as in {OBJECT} (at line 1 column 2).'),
    put('{"metadata": None}', "The body is not JSON: write null, not None (at line 1 column 14)."),
    put('{"metadata": True}', "The body is not JSON: write true, not True (at line 1 column 14)."),
    put('{"expire": NaN}', "The body is not JSON: JSON has no NaN; send a number, or leave the member out (at line 1 column 12)."),
    put('{"expire": .5}', "The body is not JSON: write 0 before the decimal point, as in 0.5 (at line 1 column 12)."),
    put('{"expire": +5}', "The body is not JSON: remove the + before the number (at line 1 column 12)."),
    put('{"expire": 01}', "The body is not JSON: remove the leading zero of the number (at line 1 column 13)."),
    put('{"expire": 1.}', "The body is not JSON: a number needs digits on both sides of its decimal point (at line 1 column 14)."),
    put('{"expire": 1e}', "The body is not JSON: the number lacks a digit (at line 1 column 14)."),
    put('{"user" "a"}', "The body is not JSON: a colon is missing after a name (at line 1 column 9)."),
    put('{"user": "a" "expire": 1}', "The body is not JSON: a comma is missing (at line 1 column 14)."),
    put('{"user": "a"', "The body is not JSON: it ends too early; close each string, list and object (at line 1 column 12)."),
    put('{"user": "a"}\n{"user": "b"}', "The body is not JSON: something follows the first JSON value; send one object (at line 2 column 1)."),
    put('{\n  "user": "a", // mine\n}', "The body is not JSON: JSON has no comments; remove them (at line 2 column 16)."),
    put('{"user": "a\nb"}', r"The body is not JSON: a string contains a line break; write \n (at line 1 column 12)."),
    put('{"user": "a\tb"}', r"The body is not JSON: a string contains a tab; write \t (at line 1 column 12)."),
    put('{"user": "a\x01b"}', r"The body is not JSON: a string contains the control character U+0001; write \u0001 (at line 1 column 12)."),
    put('{"metadata": {"a": tru}}', "The body is not JSON: write true, false and null in full, in lower case (at line 1 column 23)."),
    put('{\n  "user": "ü"\n,\n}', "The body is not JSON: remove the comma that no value follows (at line 3 column 1)."),
    put('{"user": "ü",}', "The body is not JSON: remove the comma that no value follows (at line 1 column 13)."),
    put(r'{"user": "C:\d"}', r"The body is not JSON: write a backslash in a string as \\ (at line 1 column 13)."),
    put(b'{"user": "Z\xfcrich"}', "The body is not JSON: it is not encoded in UTF-8; send it as UTF-8 (at line 1 column 12)."),
    put(b'\xef\xbb\xbf{"user": "a"}', "The body is not JSON: it begins with a byte order mark; save it as UTF-8 without one (at line 1 column 1)."),
    put("user=a&expire=1", f"The body is not JSON: it is form data (name=value); send JSON, such as {OBJECT} (at line 1 column 1)."),
    put("<record/>", f"The body is not JSON: it looks like XML or HTML; send JSON, such as {OBJECT} (at line 1 column 1)."),
    put("@record.json", "The body is not JSON: it is the name of a file; to send its content with curl, write --data-binary @FILE (at line 1 column 1)."),
    put("[]", f"The body must be a JSON object, such as {RECORD}, not a list."),
    put('"{}"', f"The body must be a JSON object, such as {RECORD}, not a string that contains one; encode it only once."),
    put('{"user": "a", "user": "b"}', "The body repeats the member 'user'; send each member once."),
]  # fmt: skip
TIMES = [
    expire(1798761600000, f"{SECONDS}, not in milliseconds; did you mean 1798761600?"),
    expire("1798761600000", f"{SECONDS}, not in milliseconds; did you mean 1798761600?"),
    expire(1798761600000000, f"{SECONDS}, not in microseconds; did you mean 1798761600?"),
    expire("2027-01-01T00:00:00Z", f"{SECONDS}, not a date; did you mean 1798761600?"),
    expire("2027-01-01T02:00:00+02:00", f"{SECONDS}, not a date; did you mean 1798761600?"),
    expire("2027-01-01", f"{SECONDS}, not a date; did you mean 1798761600?"),
    expire("Fri, 01 Jan 2027 00:00:00 GMT", f"{SECONDS}, not a date; did you mean 1798761600?"),
    expire(1798761600.5, "must be a whole number of seconds, without fraction or exponent; did you mean 1798761600?"),
    expire("1798761600.5", "must be a whole number of seconds, without fraction or exponent; did you mean 1798761600?"),
    expire(0.5, "must be a whole number of seconds, without fraction or exponent; send 1798761600, for example."),
    expire(-1, "must not be negative: Unix time in seconds is 0 or more."),
    expire("-1", "must not be negative: Unix time in seconds is 0 or more."),
    expire(True, f"{RULE}, not true."),
    expire(None, "must not be null; leave the member out instead."),
    expire(" 1798761600", "must have only digits, without spaces or a sign; did you mean 1798761600?"),
    expire("soon", f"{RULE}."),
    expire(253402300800, f"{SECONDS}, at most 253402300799, the end of the year 9999."),
]  # fmt: skip
VALUES = [
    put("{}", '`user` is required to create a GUID, as in {"user": "Cylance, Inc."}.'),
    put('{"user": 1}', '`user` must be a string, such as "Cylance, Inc.".'),
    put('{"user": ""}', "`user` must have 1 to 256 characters, not 0."),
    put('{"metadata": "{}"}', '`metadata` must be a JSON object, such as {"env": "test"}, not a string that contains one.'),
    put('{"metdata": {}}', f"`metdata` is not a known member; did you mean `metadata`? {MEMBERS}"),
    put('{"Expires": 1}', f"`Expires` is not a known member; did you mean `expire`? {MEMBERS}"),
    put('{"expires_in": 60}', "`expires_in` is not a known member; send the seconds from now as `ttl`."),
    put('{"ttl": "0"}', f"`ttl` {WHOLE_SECONDS}."),
    put('{"ttl": "30m"}', f"`ttl` {WHOLE_SECONDS}; did you mean 1800?"),
    put('{"ttl": 60.5}', f"`ttl` {WHOLE_SECONDS}, without fraction or exponent; did you mean 61?"),
    put('{"ttl": "60.5"}', f"`ttl` {WHOLE_SECONDS}, without fraction or exponent; did you mean 61?"),
    put('{"ttl": 6e1}', f"`ttl` {WHOLE_SECONDS}, without fraction or exponent; did you mean 60?"),
    put('{"ttl": 1e999}', f"`ttl` {WHOLE_SECONDS}, without fraction or exponent."),
    put('{"ttl": -0.5}', f"`ttl` {WHOLE_SECONDS}, without fraction or exponent."),
    renewal('{"if_below": 0.5}', f"`if_below` {WHOLE_SECONDS}, without fraction or exponent; did you mean 1?"),
    renewal('{"revive": "yes"}', "`revive` must be true or false, without quotes."),
    renewal('{"ttl": "90.5s"}', f"`ttl` {WHOLE_SECONDS}; did you mean 91?"),
    put('{"ttl": 60, "expire": 1798761600}', "`ttl` excludes `expire`; send one of them."),
    put('{"ttl": true, "expire": 1798761600}', f"`ttl` {WHOLE_SECONDS}; and it excludes `expire`; send one of them."),
    put('{"spread": 60}', "`spread` requires `ttl`, to which it adds up to this many seconds at random."),
    put('{"TTL": 60}', f"`TTL` is not a known member; did you mean `ttl`? {MEMBERS}"),
    put('{"ttL": 60}', f"`ttL` is not a known member; did you mean `ttl`? {MEMBERS}"),
    patch('{"ttl": 60}', f"`ttl` is not a known member of a PATCH; {RENEWED}."),
    patch('{"Spread": 60}', f"`Spread` is not a known member of a PATCH; {RENEWED}."),
    patch('{"revive": false}', "`revive` is not a known member of a PATCH; remove it: a PATCH revives an expired record only with a future `expire`."),
    put('{"revive": "no"}', "`revive` must be true or false, without quotes."),
    put('{"revive": null}', "`revive` must not be null; leave the member out instead."),
    put('{"colour": "red"}', f"`colour` is not a known member; remove it. {MEMBERS}"),
    put('{"state": "live"}', "`state` is set by the service; remove it. Responses without view=full contain only members that can be sent back."),
    put('{"gs_0123456789abcdef": 1}', f"The body has an unknown member; {UNNAMED}"),
    put(json.dumps({"a" * 200: 1}), f"The body has an unknown member; {UNNAMED}"),
    put('{"\\u001b[31m": 1}', f"The body has an unknown member; {UNNAMED}"),
    put('{"guid": "%s"}' % ("0" * 32), f"`guid` must be the GUID in the path, {GUID}; a GUID cannot be changed."),
    put('{"expire": "soon", "user": " ", "colour": "red"}', f"`expire` {RULE} (and 2 more errors, listed in `errors`)."),
    put('{"user": " ", "colour": "red"}', "`user` must not be blank (and 1 more error, listed in `errors`)."),
    Mistake("POST", "/guid", b"{}", JSON, 400, "invalid-request", f"`user` is required, as in {OBJECT}."),
    Mistake("POST", "/guid", b'{"username": "a"}', JSON, 400, "invalid-request", f"`username` is not a known member; did you mean `user`? {CREATION_MEMBERS} (and 1 more error, listed in `errors`)."),
]  # fmt: skip
QUERIES = [
    get("/guid?limit=0", "`limit` must be a whole number, 1 or more, such as 50; a page has at most 500."),
    get("/guid?limit=ten", "`limit` must be a whole number, 1 or more, such as 50; a page has at most 500."),
    get("/guid?limit=1&limit=2", "`limit` is given more than once; send it once."),
    get(f"{AT}?valid_for=abc", "`valid_for` must be a whole number of seconds from 1 to 253402300799."),
    get(f"{AT}?valid_for=10m", "`valid_for` must be a whole number of seconds from 1 to 253402300799; did you mean 600?"),
    get(f"{AT}?valid_for=60.5", "`valid_for` must be a whole number of seconds from 1 to 253402300799, without fraction or exponent; did you mean 61?"),
    get("/guid?state=expird", "`state` must be `live`, `expired` or `all`; did you mean `expired`?"),
    get("/guid?state=dead", "`state` must be `live`, `expired` or `all`."),
    get(f"{AT}?view=all", "`view` must be `full`."),
    get("/guid?cursor=null", "`cursor` must not be null: null means that there is no next page; send no cursor to begin again."),
    get("/guid?cursor=", "`cursor` is empty; send no cursor to begin at the start."),
    get("/events?cursor=", "`cursor` is empty; send no cursor to begin at the start."),
    get("/guid?cursor=abc", "`cursor` is not valid; send `next` of the previous response unchanged."),
    get("/guid?expires_before=tomorrow", f"`expires_before` {SECONDS}, a date (2027-01-01), a time with its time zone (2027-01-01T12:00:00Z), or an offset from now (+24h, -30m, +7d)."),
    get("/guid?expires_before=2027-01-01T12:00:00", "`expires_before` needs a time zone; for UTC, write 2027-01-01T12:00:00Z."),
    get("/guid?expires_before=2027-02-30", "`expires_before` is not a date or time that exists."),
    Mistake("PUT", "/guid?user=a", b"{}", JSON, 400, "invalid-request", "`user` is not a query parameter of PUT; send it in the JSON body."),
    get(f"{AT}?metadata=a", "`metadata` is not a query parameter of GET; send it in the JSON body of a PUT, POST or PATCH."),
    get("/guid?expires_after=1798761600000", f"`expires_after` {SECONDS}, not in milliseconds; did you mean 1798761600?"),
    get("/guid?limits=1", f"`limits` is not a known query parameter; did you mean `limit`? {PARAMETERS}"),
    get("/guid?page=2", "`page` is not a known query parameter: pages have no numbers; send `next` of the previous response as `cursor`."),
    get("/guid?color=red", f"`color` is not a known query parameter; remove it. {PARAMETERS}"),
    get(f"{AT}?full=true", "`full` is not a known query parameter; did you mean `view=full`?"),
    get("/guid?gs_0123456789abcdef=1", f"The query has an unknown parameter; {UNNAMED}"),
    get("/guid?" + "&".join(f"p{number}=1" for number in range(33)), "The query has 33 parameters; send at most 32."),
    Mistake("DELETE", f"{AT}?force=1", None, {}, 400, "invalid-request", "`force` is not a known query parameter; remove it. This request has no query parameters."),
]  # fmt: skip
PLACES = [
    guid(GUID.lower(), f"{NOTATION} lower-case letters: use {GUID}."),
    guid("9094e4c9-80c7-4043-a4b5-86b420e69ddf", f"{NOTATION} dashes and lower-case letters: use {GUID}."),
    guid("%7B9094E4C9-80C7-4043-A4B5-86B420E69DDF%7D", f"{NOTATION} braces and dashes: use {GUID}."),
    guid(f"{GUID}%20", f"{NOTATION} spaces around it: use {GUID}."),
    guid(GUID[1:], "A GUID is 32 upper-case hexadecimal characters (0-9, A-F); this one has 31 characters."),
    guid("O" + GUID[1:], "A GUID is 32 upper-case hexadecimal characters (0-9, A-F); this one has 'O' in it; did you mean the digit 0?"),
    path("/guids", "/guid"),
    path("/guid/", "/guid"),
    path("/v1/guid", "/guid"),
    path("/api/v2/guids/", "/guid"),
    path(f"/guids/{GUID}", AT),
    path(f"{AT}/", AT),
    path("/guids/9094e4c9-80c7-4043-a4b5-86b420e69ddf", AT),
    path("/guids/x", "/guid/{guid}"),
    path("/health", "/livez"),
    path("/healthz", "/livez"),
    path("/ready", "/readyz"),
    path("/metrics/", "/metrics"),
    path("/doc", "/docs"),
    path("/swagger.json", "/openapi.json"),
    path("/openapi.yaml", "/openapi.json"),
    path("/api/openapi.yml", "/openapi.json"),
    path("/openapi", "/openapi.json"),
    path("/openapi3.json", "/openapi.json"),
    path("/swagger/v1/swagger.json", "/openapi.json"),
    path("/.well-known/openapi.json", "/openapi.json"),
    path("/api", "/openapi.json"),
    path("/v3/api-docs", "/docs"),
    path("/errors", "/problems"),
    path("/keys/x/rotate", "/keys/{id}/rotation"),
    path(f"{AT}/renew", f"{AT}/renewal"),
    path("/robots.txt", None),
    get("/problems/not_found", "There is no error code with this name. Did you mean not-found? GET /problems lists all codes.", 404, "not-found"),
    get("/docs/style.css", "The documentation has no such file. GET /docs shows its page.", 404, "not-found"),
    get("/docs/openapi.yaml", "The documentation has no such file. The OpenAPI document is at /openapi.json. GET /docs shows its page.", 404, "not-found"),
    get(AT, f"No GUID {GUID} is registered. {CREATION}", 404, "not-found"),
    Mistake("PATCH", AT, b"{}", JSON, 404, "not-found", f"No GUID {GUID} is registered. {CREATION}"),
    method("POST", AT, "GET, HEAD, PUT, PATCH, DELETE or OPTIONS", " To renew the GUID, POST to /guid/{guid}/renewal."),
    method("PUT", f"{AT}/renewal", "POST or OPTIONS", " To renew the GUID, send a POST."),
    method("PATCH", f"{AT}/renewal", "POST or OPTIONS", " To renew the GUID, send a POST."),
    method("DELETE", "/guid", "GET, HEAD, POST, PUT or OPTIONS"),
    unknown("put", AT, "The names of methods are in upper case: send PUT (curl: -X PUT)."),
    unknown("Get", "/guid", "The names of methods are in upper case: send GET (curl: -X GET)."),
    unknown("DELET", AT, "No path supports this method. Did you mean DELETE? This path supports GET, HEAD, PUT, PATCH, DELETE or OPTIONS."),
    unknown("BREW", "/version", "No path supports this method. This path supports GET, HEAD or OPTIONS."),
    unknown("x" * 32, "/version", "No path supports this method. This path supports GET, HEAD or OPTIONS."),
]  # fmt: skip
HEADERS = [
    media_type({}, "is missing"),
    media_type({"Content-Type": "application/x-www-form-urlencoded"}, "is application/x-www-form-urlencoded, which curl -d sends by default"),
    media_type({"Content-Type": "text/plain"}, "is text/plain"),
    media_type({"Content-Type": "application/json; charset=latin1"}, "is application/json; charset=latin1"),
    media_type({"Content-Type": "gs_0123456789abcdef"}, "is a different one (not shown: it may be a secret)"),
    media_type({"Content-Type": "text/" + "x" * 100}, "is text/" + "x" * 51),
    header("If-Match", "1795420608123", 'must have double quotes around the version: "1795420608123".'),
    header("If-Match", "'1795420608123'", 'must have double quotes around the version: "1795420608123".'),
    header("If-None-Match", "abc", 'must be * or a list of entity tags in double quotes, such as "1795420608123".'),
    header("Idempotency-Key", "", "is empty; send a new key, such as a UUID, for each new request."),
    header("Idempotency-Key", "a b", 'contains a space; enclose the key in double quotes, as in "a b".'),
    header("Idempotency-Key", 'a"b', 'contains a double quote; enclose the key in double quotes, and write \\" for it.'),
    header("Idempotency-Key", '"a\\b"', 'must be 1 to 255 printable ASCII characters, such as a UUID; enclose it in "..." if it contains a space or a quote.'),
    header("Idempotency-Key", "k" * 300, "has 300 characters; send 1 to 255 printable ASCII characters."),
]  # fmt: skip
BATCHES = [
    batch("", f"The body is empty; send a JSON object, such as {OPERATIONS}."),
    batch("[]", 'The body must be a JSON object; wrap the list: {"operations": [...]}.'),
    batch("{}", f"`operations` must be a list of operations, as in {OPERATIONS}."),
    batch('{"ops": []}', "`ops` is not a known member; did you mean `operations`? The only known member is `operations` (and 1 more error, listed in `errors`)."),
    batch('{"operations": [], "operation": []}', "`operation` is not a known member; did you mean `operations`? The only known member is `operations`."),
]  # fmt: skip
MISTAKES = [*BODIES, *TIMES, *VALUES, *QUERIES, *PLACES, *HEADERS, *BATCHES]
LOGINS = {
    "Basic YWxpY2U6c2VjcmV0": "The authentication scheme Basic is not supported; send Authorization: Bearer gs_...",
    "gs_0123456789abcdef": "The key in the Authorization header lacks the scheme Bearer; send Authorization: Bearer gs_...",
    "Bearer": "The Authorization header must be Bearer, a space and a key; send Authorization: Bearer gs_...",
    "Bearer gs_short": "Malformed API key: it is incomplete or mistyped; copy it again.",
    "alice": "The Authorization header must be Bearer and a key; send Authorization: Bearer gs_...",
}  # fmt: skip


async def test_mistake_is_answered_in_a_sentence(serving: Serving) -> None:
    answers = []
    async with serving() as client:
        for mistake in MISTAKES:
            reply = await client.ask(mistake.method, mistake.path, body=mistake.body, headers=mistake.headers)
            answers.append((reply.status, reply.json["code"], reply.json["detail"]))

    assert answers == [(mistake.status, mistake.code, mistake.detail) for mistake in MISTAKES]


async def test_wrong_login_is_answered_in_a_sentence(serving: Serving) -> None:
    async with serving(access="keys") as client:
        replies = [await client.get(AT, headers={"Authorization": authorization}) for authorization in LOGINS]

    assert [(reply.status, reply.json["detail"]) for reply in replies] == [(401, text) for text in LOGINS.values()]


async def test_key_of_another_store_is_answered_with_a_command(serving: Serving) -> None:
    async with serving(access="keys") as client:
        reply = await client.get(AT, headers={"Authorization": f"Bearer {generate('alice', ['read'], 0)[1]}"})
        assert reply.status == 401
        assert reply.json["detail"] == (
            "The API key is unknown, revoked or expired, or created in another store. To create another, run with the "
            "--store-url of this service: guidsvc keys create --owner NAME"
        )


ABSENT = [
    Mistake("DELETE", AT, None, {}, 404, "not-found", f"No GUID {GUID} is registered. It may have been deleted already, or purged; or another owner has it."),
    Mistake("PUT", AT, b"{}", JSON | {"If-Match": '"1"'}, 412, "precondition-failed", f"GUID {GUID} does not exist; leave If-Match out to create it."),
    Mistake("PUT", "/guid", b'{"user": "a"}', JSON | {"If-Match": "*"}, 412, "precondition-failed", "The service generates this GUID, so no record can match; leave If-Match out."),
    Mistake("POST", "/guid", b'{"user": "a"}', JSON | {"If-Match": '"1"'}, 412, "precondition-failed", "The service generates this GUID, so no record can match; leave If-Match out."),
]  # fmt: skip
"""Requests that are valid, but not for a GUID without a record."""


async def test_request_for_an_absent_record_is_answered_in_a_sentence(serving: Serving) -> None:
    async with serving() as client:
        for mistake in ABSENT:
            reply = await client.ask(mistake.method, mistake.path, body=mistake.body, headers=mistake.headers)
            assert (reply.status, reply.json["code"], reply.json["detail"]) == mistake[4:]


OPERATION_MISTAKES: list[tuple[Any, str]] = [
    ({"op": "update"}, "`op` must be `put`, `get`, `delete` or `renew`."),
    ({"op": "create"}, "`op` must be `put`, `get`, `delete` or `renew`; to create a record, send `put`, or no `op`."),
    ({"op": "delete"}, "`delete` requires `guid`."),
    ({"op": "get", "guid": GUID, "user": "a"}, "`get` takes no `user`."),
    ({"op": "get", "guid": GUID.lower()}, f"{NOTATION} lower-case letters: use {GUID}."),
    ({"user": "a", "if_match": 1}, "`if_match` must be a string: the `etag` of a result, or *."),
    (GUID, f'An operation must be a JSON object, such as {{"op": "get", "guid": "{GUID}"}}, not a string.'),
]


async def test_mistake_in_an_operation_has_a_sentence(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.post("/guid:batch", {"operations": [operation for operation, _ in OPERATION_MISTAKES]})
        details = [result["problem"]["detail"] for result in reply.json["results"]]
        assert details == [detail for _, detail in OPERATION_MISTAKES]
