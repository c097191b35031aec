"""Parsing any header, query or body takes linear time, and little time at 64 KiB."""

import gc
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from urllib.parse import quote_from_bytes

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic_core import from_json
from tornado.httputil import HTTPHeaders

from guidsvc.api.app import make_routes
from guidsvc.api.base import near_paths
from guidsvc.api.parsing import body, query
from guidsvc.api.parsing import conditional as conditions
from guidsvc.api.parsing import idempotency_key as idempotency
from guidsvc.api.parsing.key_schemas import KeysQuery
from guidsvc.api.resources.batch.operations import read_line
from guidsvc.domain import api_key as keys
from guidsvc.domain.caller import ANYONE
from guidsvc.domain.commands import BatchQuery, CreateCommand, ListQuery, PatchCommand, PutCommand
from guidsvc.domain.commands.merge_patch import merge
from guidsvc.domain.events.query import EventQuery
from guidsvc.domain.record import render_metadata
from guidsvc.errors import GuidsvcError, InvalidRequest
from guidsvc.http import constants
from guidsvc.http.errors import UnsupportedMediaType
from guidsvc.http.headers import lists as list_header
from guidsvc.http.headers import negotiation, request_id
from guidsvc.http.headers import prefer as preferences
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.http.headers.recognized import READ
from guidsvc.http.ndjson import Line
from guidsvc.monitoring import prometheus as exposition
from guidsvc.server.protocol.state import ConnectionLimits
from tests.conftest import Serving
from tests.support.cpu_time import slowness
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

pytestmark = pytest.mark.slow

MAX_SECONDS = 0.05
"""CPU time of one request."""
MAX_SECONDS_BY_DEFAULT = 0.001
"""CPU time that a header may cost at the default limit for the head of a request."""
MAX_SECONDS_OF_A_BODY = 0.0015
"""CPU time to decode and validate a body. A document may take twice that: few are decoded in a turn of the loop."""
MAX_SECONDS_OF_A_PATH = 0.0001
"""CPU time to find the path of the service that is most similar to an unknown one."""
TRIES = 5
MANY_TRIES = 200
"""For short times, which other processes lengthen: the first try within the limit ends the measurement."""
LARGE = 64 * 1024
DEFAULT = ConnectionLimits().head_bytes
PARTS = [
    *""",;="\\ ()<>[]{}.:-_*/&%?@'""",
    *('a\\",', 'a="', '"\\', '\\"', '"a",', '"a" ', 'W/"', 'W/"a",', "W/,", "(,", "\t,"),
    *("a,", "a=", "a;", "a=b;", "*,", "*/*,", ";q=", "a/b;q=0.1,", "q=1;", "a", "0", "\xe9", "%41"),
    *("application/json,", "application/json;", ';charset="utf-8"', "text/html;level=1;q=1,"),
    *("return=minimal,", 'return="minimal",', "chunked,", "keep-alive,", "100-continue,", "h2c,"),
    *("10.0.0.1,", "10.0.0.1, ", "::1,", "http,", "http://a.", "gs_", "eyJ.", "Bearer "),
]
"""Parts from which hostile headers are built."""
ENDS = ["", '"', "10.0.0.1"]
HEADERS = sorted(name.decode() for name in READ)
UNSENT = {"content-length", "transfer-encoding"}
"""Headers that frame the body: with other values the client could not complete the request."""
PARAMETERS = sorted({*ListQuery.model_fields, *BatchQuery.model_fields, *KeysQuery.model_fields, "unknown"})
PROXIES = TrustedProxies(["0.0.0.0/0", "::/0"])


def hostile(size: int, prefix: str = "") -> Iterator[str]:
    """Yield texts of this size, each repeating one part."""
    for part, end in itertools.product(PARTS, ENDS):
        yield (prefix + part * (size // len(part) + 1))[: size - len(end)] + end


def cpu_seconds(work: Callable[[], object], limit: float = MAX_SECONDS, tries: int = TRIES) -> float:
    """Return the CPU time of the first try below `limit`, else the least of all, as on the machine of the limits."""
    least = float("inf")
    for _ in range(tries):
        start = time.process_time()
        with suppress(GuidsvcError, UnsupportedMediaType):
            work()
        least = min(least, time.process_time() - start)
        if least < limit:
            return least
    return least / slowness()


def read_key(text: str) -> object:
    """Parse a header Idempotency-Key."""
    headers = HTTPHeaders({"Host": "a", "Idempotency-Key": text.strip()})
    return idempotency.parse("POST /guid", b"", headers.get_list, caller=ANYONE, queue_name="", repeatable=True)


def parser_of(parameter: str, model: type[BaseModel]) -> Callable[[str], object]:
    """Return a function that parses a query parameter."""
    return lambda text: query.parse({parameter: [text.encode()]}, model)


PARSERS: dict[str, Callable[[str], object]] = {
    "accept": lambda text: negotiation.preferred(text, ("application/json", "application/x-ndjson")),
    "accept, of metrics": lambda text: exposition.render(CollectorRegistry(), text),
    "authorization": keys.parse,
    "content-type": lambda text: body.check_type("PUT", text, None, ("application/json",)),
    "content-type, parameters": lambda text: body.check_type(
        "PUT", "application/json;" + text, None, (constants.JSON,)
    ),
    "content-encoding": lambda text: body.check_type("PUT", constants.JSON, text, (constants.JSON,)),
    "idempotency-key": read_key,
    "if-match": lambda text: conditions.parse({"If-Match": text}),
    "if-none-match": lambda text: conditions.parse({"If-None-Match": text}),
    "prefer": preferences.parse,
    "x-forwarded-for": lambda text: PROXIES.client("10.0.0.1", text),
    "x-forwarded-proto": lambda text: PROXIES.scheme("10.0.0.1", text, "http"),
    "x-request-id": request_id.request_id,
    **{f"parameter {name}": parser_of(name, ListQuery) for name in ListQuery.model_fields},
    **{f"parameter {name} of keys": parser_of(name, KeysQuery) for name in KeysQuery.model_fields},
}


@pytest.mark.parametrize("parser", PARSERS)
def test_parser_takes_linear_time(parser: str) -> None:
    parse = PARSERS[parser]
    for small, large in zip(hostile(LARGE), hostile(4 * LARGE), strict=True):
        small_seconds = cpu_seconds(lambda text=small: parse(text))  # type: ignore[misc]
        assert small_seconds < MAX_SECONDS, small[:40]
        limit = max(10 * small_seconds, MAX_SECONDS)  # four times the text: 4 if linear, 16 if quadratic
        assert cpu_seconds(lambda text=large: parse(text), limit) < limit, small[:40]  # type: ignore[misc]


@pytest.mark.parametrize("parser", PARSERS)
def test_parser_is_quick_at_the_default_limit(parser: str) -> None:
    for text in hostile(DEFAULT):
        limit = MAX_SECONDS_BY_DEFAULT
        assert cpu_seconds(lambda text=text: PARSERS[parser](text), limit, MANY_TRIES) < limit, text[:40]  # type: ignore[misc]


def test_search_for_a_near_path_takes_little_time() -> None:
    """Any client may send any path, without a key."""
    templates = tuple(route.path for route in make_routes())
    paths = (f"/{text}"[: near_paths.MAX_PATH] for text in hostile(near_paths.MAX_PATH, "openapi.jso"))
    limit = MAX_SECONDS_OF_A_PATH
    for path in [*paths, "/" + "vlreadyzops" * 9, "/a" * 50, "/opeanpi.jsn", "/problesm", "/keys/a/rotatoin"]:
        search = partial(near_paths.nearest.__wrapped__, path, templates)
        assert cpu_seconds(search, limit, MANY_TRIES) < limit, path


def test_query_has_at_most_32_parameters() -> None:
    many = {f"a{number}": [b""] for number in range(33)}
    with pytest.raises(InvalidRequest, match="33 parameters") as caught:
        query.parse(many, ListQuery)
    assert len(caught.value.faults) == 1
    with pytest.raises(InvalidRequest, match="33 parameters"):
        query.parse({"a": [b""] * 33}, ListQuery)
    many.popitem()
    with pytest.raises(InvalidRequest) as caught:
        query.parse(many, ListQuery)
    assert len(caught.value.faults) == 32


@pytest.mark.parametrize("model", [ListQuery, EventQuery])
@pytest.mark.parametrize("name", ["limit", "expires_after", "wait"])
def test_long_value_is_rejected_although_it_is_valid(model: type[BaseModel], name: str) -> None:
    """The URL of the next page would repeat it, in a head that is too large for proxies."""
    if name not in model.model_fields:
        return
    longest = b"1".zfill(query.MAX_VALUE_BYTES)
    query.parse({name: [longest]}, model)
    with pytest.raises(InvalidRequest, match="1025 bytes; send at most 1024") as caught:
        query.parse({name: [b"0" + longest]}, model)
    assert [fault.parameter for fault in caught.value.faults] == [name]


def test_at_most_32_proxies_are_followed() -> None:
    chain = [f"10.0.0.{number}" for number in range(100)]
    assert TrustedProxies(["10.0.0.0/8"]).client("10.1.1.1", ", ".join(["1.2.3.4", *chain])) == "10.0.0.68"
    assert TrustedProxies(["10.0.0.0/8"]).client("10.1.1.1", ", ".join(["1.2.3.4", *chain[:31]])) == "1.2.3.4"


def test_at_most_32_list_elements_are_read() -> None:
    json, lines = offers = ("application/json", "application/x-ndjson")
    for blank in ("a/b,", ",", " ,"):
        assert negotiation.preferred(blank * 31 + lines, offers) == lines
        assert negotiation.preferred(blank * 32 + lines, offers) == json
        assert preferences.parse(blank * 31 + "wait=1").get("wait") == "1"
        assert "wait" not in preferences.parse(blank * 32 + "wait=1")
    for many in (",", "a,", '"a",', " , ", '"a,b",'):
        assert len(list(list_header.elements(many * 8_000))) <= 32
    for long in ("a" * 1_020, '"' + "a," * 509 + '"'):
        assert list(list_header.elements(f"b,{long}")) == ["b", long]
        assert list(list_header.elements(f"b,{long}aaaaa,c")) == ["b"]
    assert list(list_header.elements(' a;b="c,\\",d" , , "e,f\\')) == ['a;b="c,\\",d"', '"e,f\\']


def test_at_most_100_entity_tags_are_read() -> None:
    for name in ("If-Match", "If-None-Match"):
        assert conditions.parse({name: ",".join(['"a"'] * 100)}) is not None
        for many in ('"a",' * 100, "," * 100, '"a", ' * 3_000):
            with pytest.raises(InvalidRequest, match="at most 100 entity tags"):
                conditions.parse({name: many + '"a"'})


async def cpu_of(client: Client, method: str, path: str, headers: dict[str, str], document: object = None) -> float:
    """Return the least CPU time of a few tries of a request; client and service run in this process."""
    return await least_cpu(lambda: client.ask(method, path, headers=headers, json=document), MAX_SECONDS, TRIES)


async def least_cpu(send_request: Callable[[], Awaitable[object]], limit: float, tries: int) -> float:
    """Return the CPU time of the first try below `limit`, else the least of all, as on the machine of the limits."""
    least = float("inf")
    for _ in range(tries):
        start = time.process_time()
        await send_request()
        least = min(least, time.process_time() - start)
        if least < limit:
            return least
    return least / slowness()


def requests_with(header: str, text: str) -> list[tuple[str, str, dict[str, str], object]]:
    """Return requests of all kinds: FAST for the fast path, then those for handlers that parse headers differently."""
    headers = {header: text}
    requests: list[tuple[str, str, dict[str, str], object]] = [
        ("GET", f"/guid/{GUID}", headers, None),
        ("PUT", f"/guid/{GUID}", headers, {"user": USER}),
        ("GET", f"/guid/{GUID}?view=full", headers, None),
        ("GET", "/guid", headers, None),
        ("POST", "/guid", {"Content-Type": "application/json"} | headers, {"user": USER}),
        ("POST", "/guid:batch", {"Content-Type": "application/json"} | headers, {"operations": []}),
        ("OPTIONS", "/guid", headers, None),
        ("GET", "/problems/expired", headers, None),
        ("GET", "/docs", headers, None),
    ]
    if header.startswith("accept"):  # its response takes longer to render than all others
        requests.append(("GET", "/metrics", headers, None))
    return requests


FAST = 4


SHAPES = ['a\\",', ",", '"', '""', "*", "a;", "a=", "(", " a", '"a",', 'W/"', "10.0.0.1,", "*/*,", ";q=1", "\\", "a."]


@pytest.mark.parametrize("header", [name for name in HEADERS if name not in UNSENT])
@pytest.mark.parametrize(
    ("server", "size", "count"),
    [("httptools", 16_000, FAST), ("httptools", 64_000, None), ("tornado", 64_000, FAST)],
    indirect=["server"],
)
async def test_header_parsing_takes_bounded_time(serving: Serving, header: str, size: int, count: int | None) -> None:
    """With `count` of the kinds of requests: the handlers are the same behind both servers."""
    async with serving(max_head_bytes=128 * 1024, trusted_proxies="0.0.0.0/0") as client:
        for shape in SHAPES:
            text = (shape * size)[: size - 1].strip() + "1"
            if header == "expect":
                text = "1"  # else the client would wait for 100 Continue
            for method, path, headers, document in requests_with(header, text)[:count]:
                seconds = await cpu_of(client, method, path, headers, document)
                assert seconds < MAX_SECONDS, f"{method} {path} with {header}: {shape!r}"


@pytest.mark.parametrize("path", ["/problems/expired", "/docs", "/livez", f"/guid/{GUID}"])
async def test_header_at_the_default_limit_costs_under_a_millisecond(serving: Serving, path: str) -> None:
    """Compared with a header of the same size that is ignored."""
    size = DEFAULT - 400
    async with serving(trusted_proxies="0.0.0.0/0", cors_origins="http://a.example") as client:
        ignored = {"X-Unread": "a" * size}
        limit = MAX_SECONDS_BY_DEFAULT + await least_cpu(
            lambda: client.ask("GET", path, headers=ignored), 0, MANY_TRIES
        )
        for header, shape in itertools.product((name for name in HEADERS if name not in {*UNSENT, "expect"}), SHAPES):
            headers = {header: (shape * size)[:size].strip() + "1"}
            send_request = partial(client.ask, "GET", path, headers=headers)
            assert (await send_request()).status != HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            assert await least_cpu(send_request, limit, MANY_TRIES) < limit, f"{header}: {shape!r}"


@pytest.mark.parametrize("path", ["/problems/expired", "/docs", "/version", f"/guid/{GUID}"])
@pytest.mark.parametrize("many", [200, 990])
async def test_query_at_the_default_limit_costs_under_a_millisecond(serving: Serving, path: str, many: int) -> None:
    """Compared with a header of the same size that is ignored."""
    text = "&".join(f"%41{number:x}=b" for number in range(many))
    async with serving() as client:
        send_ignored = partial(client.ask, "GET", path, headers={"X-Unread": "a" * len(text)})
        limit = MAX_SECONDS_BY_DEFAULT + await least_cpu(send_ignored, 0, MANY_TRIES)
        assert await least_cpu(partial(client.ask, "GET", f"{path}?{text}"), limit, MANY_TRIES) < limit


@pytest.mark.both_servers
async def test_query_over_64_parameters_is_rejected_on_any_path(serving: Serving) -> None:
    async with serving() as client:
        for path in ("/livez", "/docs"):
            assert (await client.get(f"{path}?{'&'.join(['a=b'] * 64)}")).status == 200
            assert (await client.get(f"{path}?{'&'.join(['a=b'] * 65)}")).status == 400


@pytest.mark.parametrize("parameter", PARAMETERS)
async def test_parameter_parsing_takes_bounded_time(serving: Serving, parameter: str) -> None:
    async with serving(max_head_bytes=128 * 1024) as client:
        for path, shape in itertools.product(("/guid", f"/guid/{GUID}", "/livez", "/keys", "/guid:batch"), SHAPES):
            text = quote_from_bytes((shape * 20_000)[:20_000].encode(), safe="a1.=;*")
            seconds = await cpu_of(client, "GET", f"{path}?{parameter}={text}", {})
            assert seconds < MAX_SECONDS, f"{path} with {parameter}: {shape!r}"


@pytest.mark.both_servers
@pytest.mark.parametrize("part", ["a&", "a=1&", "&", "limit=1&", "%41=%41&", ";", "="])
async def test_query_parsing_takes_bounded_time(serving: Serving, part: str) -> None:
    async with serving(max_head_bytes=128 * 1024) as client:
        for path in ("/guid", f"/guid/{GUID}", "/livez", "/docs"):
            seconds = await cpu_of(client, "GET", f"{path}?{part * (64_000 // len(part))}", {})
            assert seconds < MAX_SECONDS, f"{path} with {part!r}"


@pytest.mark.both_servers
@pytest.mark.parametrize("shape", ["/", "a/", "%", "%41", "%C3", "-", "{", "A", "gs_", "eyJ.", ".", ";", "=", "(", ":"])
async def test_path_parsing_takes_bounded_time(serving: Serving, shape: str) -> None:
    text = (shape * 60_000)[:60_000]
    async with serving(max_head_bytes=128 * 1024, access_log=True) as client:
        for start in ("/", "/guid/", "/keys/", "/keys/a/", "/problems/", "/docs/", "http://a/guid/", "http://"):
            seconds = await cpu_of(client, "GET", start + text, {})
            assert seconds < MAX_SECONDS, f"{start} and {shape!r}"


def body_of(start: str, part_at: Callable[[int], str], end: str, size: int = body.MAX_BYTES) -> Callable[[], bytes]:
    """Return a function that builds a body of about this size, with as many parts as fit, at its first call."""

    @cache
    def build() -> bytes:
        text, number = [start], 0
        room = size - len(start) - len(end)
        while (room := room - len(part := part_at(number)) - 1) > 0:
            text.append(part + ",")
            number += 1
        return ("".join(text).removesuffix(",") + end).encode()

    return build


METADATA = '{"user":"a","metadata":'
BODIES: dict[str, Callable[[], bytes]] = {
    "lists": body_of(METADATA + '{"a":[', lambda _: "[]", "]}}"),
    "lists in lists": body_of(METADATA + '{"a":[', lambda _: "[[[]]]", "]}}"),
    "objects": body_of(METADATA + '{"a":[', lambda _: "{}", "]}}"),
    "members": body_of(METADATA + "{", lambda n: f'"{n:x}":1', "}}"),
    "members that are objects": body_of(METADATA + "{", lambda n: f'"{n:x}":{{}}', "}}"),
    "objects in objects": body_of(METADATA + "{", lambda n: f'"{n:x}":{{"a":{{"b":{{}}}}}}', "}}"),
    "nulls": body_of(METADATA + "{", lambda n: f'"{n:x}":null', "}}"),
    "integers": body_of(METADATA + '{"a":[', lambda _: "1", "]}}"),
    "long integers": body_of(METADATA + '{"a":{"b":[', lambda _: "-" + "9" * 4290, "]}}}"),
    "numbers": body_of(METADATA + '{"a":[', lambda _: "1e-9", "]}}"),
    "numbers with many digits": body_of(METADATA + '{"a":{"b":[', lambda _: "0." + "1" * 400, "]}}}"),
    "strings": body_of(METADATA + '{"a":["', lambda _: '","', '"]}}'),
    "escapes": body_of(METADATA + '{"a":"', lambda _: "\\u003a", '"}}'),
    "quotes": body_of(METADATA + '{"a":"', lambda _: '\\"', '"}}'),
    "a member twice at the end": body_of(METADATA + "{", lambda n: f'"{n:x}":1', ',"a":1,"a":1}}'),
    "a short body with a member twice": body_of(METADATA + "{", lambda n: f'"{n:x}":{{}}', ',"a":1}}', 18_000),
    "members that are unknown": body_of("{", lambda n: f'"{n:x}":1', "}"),
    "a user of lists": body_of('{"user":[', lambda _: "[]", "]}"),
    "a list": body_of("[", lambda _: "[]", "]"),
    "lists within the bound": body_of(METADATA + '{"a":[', lambda _: "[]", "]}}", 16_384),
    "objects within the bound": body_of(METADATA + "{", lambda n: f'"{n:x}":{{"a":{{"b":{{}}}}}}', "}}", 16_384),
    "objects with spaces": body_of(METADATA + "{", lambda n: f'"{n:x}":{{"a":{{"b":{{}}}}}}' + " " * 50, "}}"),
    "members that are null": body_of(METADATA + "{", lambda n: f'"{n:x}":null', "}}", 49_000),
    "objects and null": body_of(METADATA + '{"a":null,"b":{', lambda n: f'"{n:x}":{{}}', "}}}", 27_000),
    "short numbers and null": body_of(METADATA + '{"a":null,"b":[', lambda _: "1e15", "]}}"),
    "strings and null": body_of(METADATA + '{"a":null,"b":[', lambda _: '"x"', "]}}", 24_000),
    "line breaks before a fault": lambda: b'{"user":' + b"\n" * (body.MAX_BYTES - 10) + b"x}",
    "quotes within the bound": body_of(METADATA + '{"a":"', lambda _: '\\"', '"}}', 16_384),
}
"""Bodies that would take long to validate part by part."""


@cache
def patch_of(text: bytes) -> bytes:
    """Return the patch of the metadata in a body, which is merged in a later turn; an empty one if it is invalid."""
    try:
        patch = body.parse(text, PatchCommand, {"guid": GUID}).metadata
    except InvalidRequest:
        return b"{}"
    return patch if isinstance(patch, bytes) else b"{}"


VALIDATORS: dict[str, Callable[[bytes], object]] = {
    "PUT": lambda text: body.parse(text, PutCommand, {"guid": GUID}),
    "PATCH": lambda text: body.parse(text, PatchCommand, {"guid": GUID}),
    "PATCH, merged": lambda text: render_metadata(merge({}, from_json(patch_of(text)))),
    "POST": lambda text: body.parse(text, CreateCommand, {"guid": None}),
    "line": lambda text: read_line(Line(1, text)),
    "document": lambda text: body.decode(b'{"operations":[%b]}' % text),
}


@pytest.fixture
def as_the_service_runs() -> Iterator[None]:
    """Let the garbage collector run as often as in the service."""
    thresholds = gc.get_threshold()
    gc.set_threshold(20_000, 20, 100)
    yield
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("as_the_service_runs")
@pytest.mark.parametrize("shape", BODIES)
@pytest.mark.parametrize("validator", VALIDATORS)
def test_body_validation_takes_bounded_time(validator: str, shape: str) -> None:
    limit, text = MAX_SECONDS_OF_A_BODY * (2 if validator == "document" else 1), BODIES[shape]()
    assert cpu_seconds(lambda: VALIDATORS[validator](text), limit, MANY_TRIES) < limit
