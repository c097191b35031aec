"""Malformed and unusual requests over bare sockets, on both servers, each with its expected response.

A probe follows each. If the connection stays open, the last response is that to the probe; if not, the connection ends.
Where the servers differ, our own is stricter or follows RFC 9112; `docs/http-server.md` lists the differences.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from tests.conftest import Serving
from tests.support.backing_servers import ROOT
from tests.support.factories import GUID
from tests.support.http_client import hang_up, read_reply, reset

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}".encode()
PROBE = b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Request-Id: probe\r\n\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
PUT = b"PUT " + PATH + b" HTTP/1.1\r\nHost: a\r\n"
BODY = b'{"user": "a"}'
CHUNKED = PUT + b"Transfer-Encoding: chunked\r\n\r\n"
STAYS_OPEN, ENDS = True, False
BLANKS = (b" ", b"\t", b" \t ")
COMMON = {
    b"Accept": b"application/json",
    b"Authorization": b"Bearer",
    b"Connection": b"keep-alive",
    b"Content-Type": b"application/json",
    b"Idempotency-Key": b"a",
    b"Prefer": b"return=minimal",
    b"X-Forwarded-For": b"10.0.0.1",
    b"X-Request-Id": b"a",
}
"""Headers that the service reads, with values that change no status."""


class Outcome(NamedTuple):
    """The statuses that were received, and whether the connection stays open."""

    statuses: tuple[int, ...]
    goes_on: bool


def goes_on(*statuses: int) -> Outcome:
    """Expect these statuses, and a response to the probe after them."""
    return Outcome(statuses, STAYS_OPEN)


def ends(*statuses: int) -> Outcome:
    """Expect these statuses, and then the end of the connection."""
    return Outcome(statuses, ENDS)


class Case(NamedTuple):
    """A request, and the expected responses of our own server and of Tornado's."""

    name: str
    request: bytes
    own_server: Outcome
    tornado: Outcome


def same_on_both(name: str, request: bytes, outcome: Outcome) -> Case:
    """Return a case in which both servers respond alike."""
    return Case(name, request, outcome, outcome)


CASES = [
    # Lines
    Case("bare LF", b"GET /livez HTTP/1.1\nHost: a\n\n", ends(400), goes_on(200)),
    Case("bare LF after a header", LIVE + b"X: y\n\r\n", ends(400), goes_on(200)),
    Case("bare CR in a header", LIVE + b"X: y\rz\r\n\r\n", ends(400), ends(400)),
    same_on_both("an empty line before", b"\r\n" + LIVE + b"\r\n", goes_on(200)),
    Case("two empty lines before", b"\r\n\r\n" + LIVE + b"\r\n", goes_on(200), ends(400)),
    Case("two spaces in the request line", b"GET  /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(200), ends(400)),
    same_on_both("a tab for a space", b"GET\t/livez HTTP/1.1\r\nHost: a\r\n\r\n", ends(400)),
    same_on_both("no version", b"GET /livez\r\n\r\n", ends(400)),
    Case("HTTP/2.0", b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n", ends(505), ends(400)),
    Case("HTTP/3.7 for a GUID", b"GET " + PATH + b" HTTP/3.7\r\nHost: a\r\n\r\n", ends(505), ends(400)),
    same_on_both("HTTP/0.9", b"GET /livez HTTP/0.9\r\nHost: a\r\n\r\n", ends(400)),
    same_on_both("HTTP/1.2", b"GET /livez HTTP/1.2\r\nHost: a\r\n\r\n", goes_on(200)),
    same_on_both("HTTP/1.9 for a GUID", b"GET " + PATH + b" HTTP/1.9\r\nHost: a\r\n\r\n", goes_on(404)),
    same_on_both("HTTP/1.2 without Host", b"GET /livez HTTP/1.2\r\n\r\n", ends(400)),
    same_on_both("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ends(400)),
    same_on_both("the beginning of TLS", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", ends(400)),
    same_on_both("a method in lower case", b"get /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501)),
    same_on_both("QUERY", b"QUERY " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(405)),
    same_on_both("a known method that the path does not support", b"TRACE " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(405)),
    same_on_both("a method of another protocol", b"PROPFIND " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501)),
    same_on_both("a method of RTSP", b"PLAY " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501)),
    same_on_both("an unknown method on an unknown path", b"BREW /nothing HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404)),
    same_on_both("an unknown method", b"BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501)),
    # Headers
    same_on_both("no Host", b"GET /livez HTTP/1.1\r\n\r\n", ends(400)),
    same_on_both("no Host under HTTP/1.0", b"GET /livez HTTP/1.0\r\n\r\n", ends(200)),
    same_on_both("two Hosts", LIVE + b"Host: b\r\n\r\n", ends(400)),
    same_on_both("two Hosts that are the same", LIVE + b"Host: a\r\n\r\n", ends(400)),
    same_on_both("a Host that is none", b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n", ends(400)),
    *(same_on_both(f"a Host with a port of {digits:,} digits for {path.decode()}", b"GET %b HTTP/1.1\r\nHost: a:%b\r\n\r\n" % (path, b"0" * digits),
            ends(400)) for path in (b"/livez", b"/docs", PATH) for digits in (6, 4301)),
    same_on_both("a Host with a port of 5 digits", b"GET /livez HTTP/1.1\r\nHost: a:00080\r\n\r\n", goes_on(200)),
    same_on_both("a folded header", LIVE + b"X: y\r\n z\r\n\r\n", ends(400)),
    same_on_both("a space before the colon", LIVE + b"X : y\r\n\r\n", ends(400)),
    same_on_both("a header without a name", LIVE + b": y\r\n\r\n", ends(400)),
    same_on_both("a header without a colon", LIVE + b"xyz\r\n\r\n", ends(400)),
    same_on_both("NUL in a header", LIVE + b"X: y\0z\r\n\r\n", ends(400)),
    same_on_both("a control character in a header", LIVE + b"X: y\x01z\r\n\r\n", ends(400)),
    same_on_both("Latin-1 in a header", LIVE + b"X: \xe9\r\n\r\n", goes_on(200)),
    same_on_both("100 headers", LIVE + b"X: y\r\n" * 99 + b"\r\n", goes_on(200)),
    Case("101 headers", LIVE + b"X: y\r\n" * 100 + b"\r\n", ends(431), ends(400)),
    Case("a head of more than 16 KiB", LIVE + b"X: " + b"y" * 16_400 + b"\r\n\r\n", ends(431), ends()),
    Case("a megabyte of headers", LIVE + b"X: y\r\n" * 175_000 + b"\r\n", ends(431), ends()),
    Case("one header of a megabyte", LIVE + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n", ends(431), ends()),
    *(same_on_both(f"{blank!r} around a Host", b"GET /livez HTTP/1.1\r\nHost:%ba%b\r\n\r\n" % (blank, blank), goes_on(200))
      for blank in BLANKS),
    *(same_on_both(f"{blank!r} behind {name.decode()}", LIVE + b"%b: %b%b\r\n\r\n" % (name, value, blank), goes_on(200))
      for blank in BLANKS for name, value in COMMON.items()),
    *(same_on_both(f"{blank!r} behind {name.decode()} of a GUID", b"GET %b HTTP/1.1\r\nHost: a%b\r\n%b: %b%b\r\n\r\n" % (PATH, blank, name, value, blank),
            goes_on(404)) for blank in BLANKS for name, value in COMMON.items()),
    *(same_on_both(f"{blank!r} behind close", LIVE + b"Connection: close%b\r\n\r\n" % blank, ends(200)) for blank in BLANKS),
    # Targets
    same_on_both("an absolute target", b"GET http://a/livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(200)),
    same_on_both("an absolute target of another host", b"GET http://b/livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(200)),
    *(same_on_both(f"an absolute target with a port of {digits:,} digits", b"GET http://a:%b/livez HTTP/1.1\r\nHost: a\r\n\r\n" % (b"0" * digits),
            ends(400)) for digits in (6, 4301)),
    same_on_both("an absolute target with long numbers", b"GET http://a:80/livez?a=:1234567 HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(200)),
    same_on_both("an asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(204)),
    same_on_both("an asterisk for a GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404)),
    same_on_both("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", ends(404)),
    same_on_both("%0A in the path", b"GET /livez%0A HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404)),
    same_on_both("%00 in a GUID", b"GET /guid/%00 HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(400)),
    Case("NUL in the path", b"GET /livez\0 HTTP/1.1\r\nHost: a\r\n\r\n", ends(400), ends(400)),
    Case("invalid UTF-8 in the path", b"GET /guid/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", ends(400), goes_on(400)),
    same_on_both("bad UTF-8, encoded", b"GET /guid/%FF%FE HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(400)),
    Case("a target without a slash", b"GET livez HTTP/1.1\r\nHost: a\r\n\r\n", ends(400), goes_on(404)),
    Case("UTF-8 in the query, not encoded", b"GET /guid?user=\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", ends(400), goes_on(200)),
    same_on_both("a fragment", b"GET /livez#a HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404)),
    # Lengths
    same_on_both("two lengths", PUT + b"Content-Length: 13\r\nContent-Length: 14\r\n\r\n" + BODY, ends(400)),
    Case("two equal Content-Length headers", PUT + b"Content-Length: 13\r\nContent-Length: 13\r\n\r\n" + BODY, ends(400), goes_on(201)),
    Case("a list in Content-Length", PUT + b"Content-Length: 13, 13\r\n\r\n" + BODY, ends(400), goes_on(201)),
    *(same_on_both(f"a length of {length!r}", PUT + b"Content-Length: %b\r\n\r\n" % length + BODY, ends(400))
      for length in (b"+13", b"1_3", b"-1", b"0x0d", b"13.0", b"a")),
    same_on_both("an empty length", PUT + b"Content-Length: \r\n\r\n" + BODY, ends(400)),
    same_on_both("a length with zeros", PUT + b"Content-Length: 0013\r\n\r\n" + BODY, goes_on(201)),
    same_on_both("a length with many zeros", PUT + b"Content-Length: %b13\r\n\r\n" % (b"0" * 30) + BODY, goes_on(201)),
    *(same_on_both(f"{blank!r} behind a length", PUT + b"Content-Length: 13%b\r\n\r\n" % blank + BODY, goes_on(201)) for blank in BLANKS),
    same_on_both("a blank within a length", PUT + b"Content-Length: 1 3\r\n\r\n" + BODY, ends(400)),
    same_on_both("a length of blanks", PUT + b"Content-Length: \t \r\n\r\n" + BODY, ends(400)),
    Case("a length of 40 digits", PUT + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", ends(413), ends(413)),
    same_on_both("a length of 5,000 digits", PUT + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", ends(413)),
    Case("a length with 5,000 zeros", PUT + b"Content-Length: %b13\r\n\r\n" % (b"0" * 5000) + BODY, goes_on(201), ends(400)),
    same_on_both("a body of a GET", LIVE + b"Content-Length: 2\r\n\r\n{}", goes_on(200)),
    # Chunks
    same_on_both("length and chunks", PUT + b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ends(400)),
    same_on_both("chunks and length", PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 13\r\n\r\n0\r\n\r\n", ends(400)),
    same_on_both("chunked twice", PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ends(400)),
    same_on_both("chunked, chunked", PUT + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", ends(400)),
    Case("gzip, chunked in one header", PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ends(501), ends(400)),
    Case("gzip and chunked in two headers", PUT + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ends(501), ends(400)),
    same_on_both("chunked, gzip", PUT + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", ends(400)),
    same_on_both("gzip, chunked, chunked", PUT + b"Transfer-Encoding: gzip, chunked, chunked\r\n\r\n0\r\n\r\n", ends(400)),
    same_on_both("codings of an answer", LIVE + b"TE: gzip, chunked\r\n\r\n", goes_on(200)),
    same_on_both("identity", PUT + b"Transfer-Encoding: identity\r\n\r\n", ends(400)),
    same_on_both("a coding that is none", PUT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", ends(400)),
    Case("a chunked body with HTTP/1.0", b"PUT %b HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n%b\r\n0\r\n\r\n" % (PATH, BODY),
         ends(400), ends(201)),
    same_on_both("chunks", CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\n\r\n", goes_on(201)),
    same_on_both("chunked and a blank", PUT + b"Transfer-Encoding: chunked \r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n", goes_on(201)),
    Case("chunked followed by a tab", PUT + b"Transfer-Encoding: chunked\t\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400), goes_on(201)),
    same_on_both("chunked and a vertical tab", PUT + b"Transfer-Encoding: chunked\x0b\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400)),
    same_on_both("chunked and a blank, and a length", PUT + b"Transfer-Encoding: chunked \r\nContent-Length: 13 \r\n\r\n0\r\n\r\n", ends(400)),
    Case("a chunk extension", CHUNKED + b"d;a=b\r\n" + BODY + b"\r\n0\r\n\r\n", goes_on(201), ends(400)),
    Case("a trailer", CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n", goes_on(201), ends(400)),
    Case("a trailer of 60,000 headers", CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\n" + b"X: y\r\n" * 60_000 + b"\r\n", ends(400), ends()),
    same_on_both("a chunk of bare LF", CHUNKED + b"d\n" + BODY + b"\n0\n\n" + b"\r\n" * 40, ends(400)),
    *(same_on_both(f"a chunk of size {size!r}", CHUNKED + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400))
      for size in (b"+d", b"0xd", b"-d", b"1_3", b"", b" d", b"g")),
    Case("a chunk size with 5,000 zeros", CHUNKED + b"0" * 5000 + b"d\r\n" + BODY + b"\r\n0\r\n\r\n", goes_on(201), ends()),
    same_on_both("a chunk of a huge size", CHUNKED + b"f" * 20 + b"\r\n", ends(400)),
    same_on_both("a chunk that is longer than it says", CHUNKED + b"c\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400)),
    # Connections
    same_on_both("close", LIVE + b"Connection: close\r\n\r\n", ends(200)),
    same_on_both("what comes after close", LIVE + b"Connection: close\r\n\r\n" + LIVE + b"\r\n", ends(200)),
    *(same_on_both(f"close in a list: {options}", LIVE + b"".join(b"Connection: %b\r\n" % option for option in options) + b"\r\n", ends(200))
      for options in ([b"close, x"], [b"x,close"], [b"x ,\tClose , y"], [b"keep-alive, close"], [b"close, keep-alive"],
                      [b"keep-alive", b"close"], [b"close", b"keep-alive"], [b"x", b"close"], [b"close", b"x"], [b", close ,"])),
    *(same_on_both(f"close in a list, for a GUID: {options}", b"GET %b HTTP/1.1\r\nHost: a\r\n" % PATH
            + b"".join(b"Connection: %b\r\n" % option for option in options) + b"\r\n", ends(404))
      for options in ([b"close, x"], [b"keep-alive, close"], [b"keep-alive", b"close"], [b"close", b"keep-alive"])),
    *(same_on_both(f"no close in a list: {options!r}", LIVE + b"Connection: %b\r\n\r\n" % options, goes_on(200))
      for options in (b"x, y", b"keep-alive, x", b"closed, x", b"x-close", b",")),
    *(same_on_both(f"close in a list under HTTP/1.0: {options}", b"GET %b HTTP/1.0\r\n" % path
            + b"".join(b"Connection: %b\r\n" % option for option in options) + b"\r\n", ends(status))
      for options in ([b"keep-alive, close"], [b"close, keep-alive"], [b"keep-alive", b"close"], [b"close", b"keep-alive"])
      for path, status in ((b"/livez", 200), (PATH, 404))),
    same_on_both("HTTP/1.0, kept alive", b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", goes_on(200)),
    same_on_both("another protocol is offered", LIVE + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", goes_on(200)),
    same_on_both("another protocol, and a body", PUT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 13\r\n\r\n" + BODY,
          goes_on(201)),
    same_on_both("another protocol, and chunks",
          PUT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n",
          goes_on(201)),
    same_on_both("another protocol, and no byte of a body",
          PUT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", goes_on(400)),
    *(
        Case(f"after another request, {name}", PUT + b"Content-Length: 13\r\n\r\n" + BODY + junk, ends(201, 400), rest)
        for name, junk, rest in (
            ("a NUL", b"\0", ends(201, 400)), ("a brace", b"}", ends(201, 400)), ("blanks", b"  x", ends(201, 400)), ("text", b"x y", ends(201, 400)),
            ("an unknown method", b"BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(201, 501)),
            ("a method of RTSP", b"PLAY /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(201, 501)),
        )
    ),
    same_on_both("a fault behind a request", LIVE + b"\r\nGET /livez HTTP/1.1\r\nX : y\r\n\r\n", ends(200, 400)),
]  # fmt: skip


async def send_with_probe(port: int, parts: Sequence[bytes]) -> Outcome:
    """Send the parts and the probe; return what was received. A connection that ends must have said so."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    statuses, has_probe_response, says_close = [], False, True
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        writer.write(PROBE)
        while not has_probe_response:
            reply = await asyncio.wait_for(read_reply(reader, "GET"), 30)
            statuses.append(reply.status)
            has_probe_response = reply.headers.get("X-Request-Id") == "probe"
            says_close = reply.headers.get("Connection") == "close" or b" HTTP/1.0\r\n" in parts[0]
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        await hang_up(writer)
    assert has_probe_response or says_close
    return Outcome(tuple(statuses[:-1] if has_probe_response else statuses), has_probe_response)


async def test_every_raw_request_gets_its_response(serving: Serving, server: str) -> None:
    outcomes = []
    async with serving() as client:
        for case in CASES:
            outcomes.append((case.name, await send_with_probe(client.port, [case.request])))
            assert (await client.get("/livez")).status == 200, case.name
            await client.ask("DELETE", PATH.decode())  # no case depends on those before

    is_own = server == "httptools"
    assert outcomes == [(case.name, case.own_server if is_own else case.tornado) for case in CASES]


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("extra_headers", [b"", b"Content-Encoding: identity\r\n"], ids=["fast path", "handler"])
async def test_trailing_whitespace_is_not_part_of_a_value(serving: Serving, extra_headers: bytes, blank: bytes) -> None:
    """In a precondition, and in the request id, which the response repeats."""
    async with serving() as client:
        tag = (await client.put(PATH.decode(), {"user": "a"})).headers["ETag"].encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = b"%b HTTP/1.1\r\nHost: a%b\r\nX-Request-Id: b%b\r\n%b" % (PATH, blank, blank, extra_headers)
        for _ in range(2):
            writer.write(b"GET " + head + b"If-None-Match: %b%b\r\n\r\n" % (tag, blank))
            reply = await asyncio.wait_for(read_reply(reader, "GET"), 30)
            assert (reply.status, reply.headers["X-Request-Id"]) == (304, "b")
        writer.write(b"DELETE " + head + b"If-Match: %b%b\r\n\r\n" % (tag, blank))
        assert (await asyncio.wait_for(read_reply(reader, "DELETE"), 30)).status == 204
        await hang_up(writer)


async def test_client_of_http_1_0_gets_no_100(serving: Serving) -> None:
    """It does not know this interim response (RFC 9110, 10.1.1)."""
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = b"PUT %b HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (PATH, len(BODY))
        writer.write(head + BODY)
        assert (await asyncio.wait_for(reader.readline(), 30)).endswith(b" 201 Created\r\n")
        await hang_up(writer)


async def test_request_can_arrive_byte_by_byte(serving: Serving) -> None:
    request = CHUNKED + b"4\r\n" + BODY[:4] + b"\r\n9\r\n" + BODY[4:] + b"\r\n0\r\n\r\n" + LIVE + b"\r\n"
    async with serving() as client:
        assert await send_with_probe(
            client.port, [request[position : position + 1] for position in range(len(request))]
        ) == goes_on(201, 200)
        for position in range(1, len(request)):
            assert await send_with_probe(client.port, [request[:position], request[position:]]) == goes_on(200, 200), (
                position
            )


async def test_thousand_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    kinds = [b"GET %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\n\r\n", b"HEAD %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\n\r\n",
             b"PUT %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\nContent-Length: 13\r\n\r\n" + BODY]  # fmt: skip
    requests = b"".join(kinds[number % 3] % (PATH, number) for number in range(1000))
    async with serving() as client:
        await client.put(PATH.decode(), {"user": "a"})
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(requests)
        for number in range(1000):
            reply = await asyncio.wait_for(read_reply(reader, "HEAD" if number % 3 == 1 else "GET"), 30)
            assert (reply.status, reply.headers["X-Request-Id"]) == (200, str(number))
        await hang_up(writer)


# Only the parser of our own server pauses at these.
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        LIVE + UPGRADE + b"\r\n",
        PUT + UPGRADE + b"Content-Length: 13\r\n\r\n" + BODY,
        PUT + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"GET %b HTTP/1.1\r\nHost: a\r\n" % PATH + UPGRADE + b"\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n",
        b"SOURCE /livez HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n",
    ],
    ids=["GET", "PUT", "PUT in chunks", "GET of a GUID", "CONNECT", "unknown", "SOURCE"],
)
@pytest.mark.parametrize("server", ["httptools"])
async def test_pipelined_requests_beyond_a_parser_pause_are_answered(serving: Serving, request_: bytes) -> None:
    """Or only the first, where the connection ends with it."""
    count = 1500
    async with serving() as client:
        await client.put(PATH.decode(), {"user": "a"})
        outcome = await send_with_probe(client.port, [request_ * count])
        if request_.startswith((b"CONNECT", b"BREW")):
            assert outcome in {ends(404), ends(501, 400)}
        else:
            assert set(outcome.statuses) <= {200, 501}
            assert (len(outcome.statuses), outcome.goes_on) == (count, True)
        assert (await client.get("/livez")).status == 200


@pytest.mark.parametrize("second", [PUT + b"Content-Length: 13\r\n\r\n" + BODY, LIVE + b"\r\n", b"GET /gui"])
async def test_bytes_after_a_read_are_not_taken_for_its_end(serving: Serving, second: bytes) -> None:
    first = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % PATH
    remainder = b"d/%b HTTP/1.1\r\nHost: a\r\n\r\n" % GUID.encode() if second == b"GET /gui" else b""
    async with serving() as client:
        await client.put(PATH.decode(), {"user": "a"})
        for _ in range(3):
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
                writer.write(first + second)
                assert (await read_reply(reader, "GET")).status == 200
                writer.write(remainder)
                assert (await read_reply(reader, "GET")).status == 200
                await hang_up(writer)


async def test_half_closed_client_gets_its_responses(serving: Serving, server: str) -> None:
    if server == "tornado":
        return  # it closes the connection of a client that has closed its side
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(PUT + b"Content-Length: 13\r\n\r\n" + BODY + LIVE + b"\r\n")
        writer.write_eof()
        assert re.findall(rb"HTTP/1.1 (\d+)", await asyncio.wait_for(reader.read(), 30)) == [b"201", b"200"]
        await hang_up(writer)


@pytest.mark.parametrize("part", [b"GET /liv", PUT + b"Content-Length: 100\r\n\r\n{", CHUNKED + b"d\r\n{"])
async def test_client_that_disconnects_mid_request_leaves_no_trace(serving: Serving, part: bytes) -> None:
    async with serving() as client:
        for disconnect in (reset, hang_up):
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(part)
            await writer.drain()
            await disconnect(writer)
        assert (await client.get("/livez")).status == 200
    # and the service ends without waiting for them: `serving` would wait for requests in flight


def test_differences_between_servers_are_listed() -> None:
    document = (
        (ROOT / "docs" / "http-server.md").read_text(encoding="utf-8").partition("## Where the servers differ")[2]
    )
    documented = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", document, re.MULTILINE)[1:]

    assert documented == [
        (case.name, *map(_documented, (case.own_server, case.tornado)))
        for case in CASES
        if case.own_server != case.tornado
    ]


def _documented(outcome: Outcome) -> str:
    statuses = ", ".join(map(str, outcome.statuses)) or "nothing"
    return f"{statuses}, {'goes on' if outcome.goes_on else 'ends'}"
