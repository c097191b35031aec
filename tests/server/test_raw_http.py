"""Bytes that no client of good faith sends, over bare sockets, on both servers: each has its asserted answer.

Behind each goes a probe. If the connection goes on, the probe is answered last; if not, the connection ends.
Where the servers differ ours is the stricter, or does what RFC 9112 demands; the differences stand in `docs/http-server.md`.
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
GOES_ON, ENDS = True, False
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


class Answer(NamedTuple):
    """The statuses that came, and whether the connection goes on."""

    statuses: tuple[int, ...]
    goes_on: bool


def goes_on(*statuses: int) -> Answer:
    """Say that these were answered, and the probe after them."""
    return Answer(statuses, GOES_ON)


def ends(*statuses: int) -> Answer:
    """Say that these were answered, and the connection ended."""
    return Answer(statuses, ENDS)


class Case(NamedTuple):
    """What is sent, and what our server and Tornado's answer."""

    name: str
    sent: bytes
    ours: Answer
    tornados: Answer


def alike(name: str, sent: bytes, answer: Answer) -> Case:
    """A case in which the servers do not differ."""
    return Case(name, sent, answer, answer)


CASES = [
    # Lines
    Case("bare LF", b"GET /livez HTTP/1.1\nHost: a\n\n", ends(400), goes_on(200)),
    Case("bare LF after a header", LIVE + b"X: y\n\r\n", ends(400), goes_on(200)),
    Case("bare CR in a header", LIVE + b"X: y\rz\r\n\r\n", ends(400), ends(400)),
    alike("an empty line before", b"\r\n" + LIVE + b"\r\n", goes_on(200)),
    Case("two spaces in the request line", b"GET  /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(200), ends(400)),
    alike("a tab for a space", b"GET\t/livez HTTP/1.1\r\nHost: a\r\n\r\n", ends(400)),
    alike("no version", b"GET /livez\r\n\r\n", ends(400)),
    Case("HTTP/2.0", b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n", ends(505), ends(400)),
    Case("HTTP/3.7 for a GUID", b"GET " + PATH + b" HTTP/3.7\r\nHost: a\r\n\r\n", ends(505), ends(400)),
    alike("HTTP/0.9", b"GET /livez HTTP/0.9\r\nHost: a\r\n\r\n", ends(400)),
    Case("HTTP/1.2", b"GET /livez HTTP/1.2\r\nHost: a\r\n\r\n", goes_on(200), ends(200)),
    Case("HTTP/1.9 for a GUID", b"GET " + PATH + b" HTTP/1.9\r\nHost: a\r\n\r\n", goes_on(404), ends(404)),
    alike("HTTP/1.2 without Host", b"GET /livez HTTP/1.2\r\n\r\n", ends(400)),
    alike("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ends(400)),
    alike("the beginning of TLS", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", ends(400)),
    Case("a method in lower case", b"get /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501), ends(501)),
    Case("QUERY", b"QUERY " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(405), ends(405)),
    Case("a known method that the path does not support", b"TRACE " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(405), ends(405)),
    Case("a method of another protocol", b"PROPFIND " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501), ends(501)),
    Case("a method of RTSP", b"PLAY " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501), ends(501)),
    Case("an unknown method on an unknown path", b"BREW /nothing HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404), ends(404)),
    Case("an unknown method", b"BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(501), ends(501)),
    # Headers
    alike("no Host", b"GET /livez HTTP/1.1\r\n\r\n", ends(400)),
    alike("no Host under HTTP/1.0", b"GET /livez HTTP/1.0\r\n\r\n", ends(200)),
    alike("two Hosts", LIVE + b"Host: b\r\n\r\n", ends(400)),
    alike("two Hosts that are the same", LIVE + b"Host: a\r\n\r\n", ends(400)),
    alike("a Host that is none", b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n", ends(400)),
    alike("a folded header", LIVE + b"X: y\r\n z\r\n\r\n", ends(400)),
    alike("a space before the colon", LIVE + b"X : y\r\n\r\n", ends(400)),
    alike("a header without a name", LIVE + b": y\r\n\r\n", ends(400)),
    alike("a header without a colon", LIVE + b"xyz\r\n\r\n", ends(400)),
    alike("NUL in a header", LIVE + b"X: y\0z\r\n\r\n", ends(400)),
    alike("a control character in a header", LIVE + b"X: y\x01z\r\n\r\n", ends(400)),
    alike("Latin-1 in a header", LIVE + b"X: \xe9\r\n\r\n", goes_on(200)),
    alike("100 headers", LIVE + b"X: y\r\n" * 99 + b"\r\n", goes_on(200)),
    Case("101 headers", LIVE + b"X: y\r\n" * 100 + b"\r\n", ends(431), ends(400)),
    Case("a head of more than 16 KiB", LIVE + b"X: " + b"y" * 16_400 + b"\r\n\r\n", ends(431), ends()),
    Case("a megabyte of headers", LIVE + b"X: y\r\n" * 175_000 + b"\r\n", ends(431), ends()),
    Case("one header of a megabyte", LIVE + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n", ends(431), ends()),
    *(alike(f"{blank!r} around a Host", b"GET /livez HTTP/1.1\r\nHost:%ba%b\r\n\r\n" % (blank, blank), goes_on(200))
      for blank in BLANKS),
    *(alike(f"{blank!r} behind {name.decode()}", LIVE + b"%b: %b%b\r\n\r\n" % (name, value, blank), goes_on(200))
      for blank in BLANKS for name, value in COMMON.items()),
    *(alike(f"{blank!r} behind {name.decode()} of a GUID", b"GET %b HTTP/1.1\r\nHost: a%b\r\n%b: %b%b\r\n\r\n" % (PATH, blank, name, value, blank),
            goes_on(404)) for blank in BLANKS for name, value in COMMON.items()),
    *(alike(f"{blank!r} behind close", LIVE + b"Connection: close%b\r\n\r\n" % blank, ends(200)) for blank in BLANKS),
    # Targets
    alike("an absolute target", b"GET http://a/livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(200)),
    alike("an absolute target of another host", b"GET http://b/livez HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(200)),
    alike("an asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(204)),
    alike("an asterisk for a GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404)),
    alike("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", ends(404)),
    alike("%0A in the path", b"GET /livez%0A HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404)),
    alike("%00 in a GUID", b"GET /guid/%00 HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(400)),
    Case("NUL in the path", b"GET /livez\0 HTTP/1.1\r\nHost: a\r\n\r\n", ends(400), ends(400)),
    Case("invalid UTF-8 in the path", b"GET /guid/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", ends(400), goes_on(400)),
    alike("bad UTF-8, encoded", b"GET /guid/%FF%FE HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(400)),
    alike("a fragment", b"GET /livez#a HTTP/1.1\r\nHost: a\r\n\r\n", goes_on(404)),
    # Lengths
    alike("two lengths", PUT + b"Content-Length: 13\r\nContent-Length: 14\r\n\r\n" + BODY, ends(400)),
    Case("two equal Content-Length headers", PUT + b"Content-Length: 13\r\nContent-Length: 13\r\n\r\n" + BODY, ends(400), goes_on(201)),
    Case("a list in Content-Length", PUT + b"Content-Length: 13, 13\r\n\r\n" + BODY, ends(400), goes_on(201)),
    *(alike(f"a length of {length!r}", PUT + b"Content-Length: %b\r\n\r\n" % length + BODY, ends(400))
      for length in (b"+13", b"1_3", b"-1", b"0x0d", b"13.0", b"a")),
    alike("an empty length", PUT + b"Content-Length: \r\n\r\n" + BODY, ends(400)),
    alike("a length with zeros", PUT + b"Content-Length: 0013\r\n\r\n" + BODY, goes_on(201)),
    *(alike(f"{blank!r} behind a length", PUT + b"Content-Length: 13%b\r\n\r\n" % blank + BODY, goes_on(201)) for blank in BLANKS),
    alike("a blank within a length", PUT + b"Content-Length: 1 3\r\n\r\n" + BODY, ends(400)),
    alike("a length of blanks", PUT + b"Content-Length: \t \r\n\r\n" + BODY, ends(400)),
    Case("a length of 40 digits", PUT + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", ends(413), ends(413)),
    alike("a body of a GET", LIVE + b"Content-Length: 2\r\n\r\n{}", goes_on(200)),
    # Chunks
    alike("length and chunks", PUT + b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ends(400)),
    alike("chunks and length", PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 13\r\n\r\n0\r\n\r\n", ends(400)),
    alike("chunked twice", PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ends(400)),
    alike("chunked, chunked", PUT + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", ends(400)),
    Case("gzip, chunked in one header", PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ends(501), ends(400)),
    Case("gzip and chunked in two headers", PUT + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ends(501), ends(400)),
    alike("chunked, gzip", PUT + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", ends(400)),
    alike("gzip, chunked, chunked", PUT + b"Transfer-Encoding: gzip, chunked, chunked\r\n\r\n0\r\n\r\n", ends(400)),
    alike("codings of an answer", LIVE + b"TE: gzip, chunked\r\n\r\n", goes_on(200)),
    alike("identity", PUT + b"Transfer-Encoding: identity\r\n\r\n", ends(400)),
    alike("a coding that is none", PUT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", ends(400)),
    Case("a chunked body with HTTP/1.0", b"PUT %b HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n%b\r\n0\r\n\r\n" % (PATH, BODY),
         ends(400), ends(201)),
    alike("chunks", CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\n\r\n", goes_on(201)),
    alike("chunked and a blank", PUT + b"Transfer-Encoding: chunked \r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n", goes_on(201)),
    Case("chunked followed by a tab", PUT + b"Transfer-Encoding: chunked\t\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400), goes_on(201)),
    alike("chunked and a vertical tab", PUT + b"Transfer-Encoding: chunked\x0b\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400)),
    alike("chunked and a blank, and a length", PUT + b"Transfer-Encoding: chunked \r\nContent-Length: 13 \r\n\r\n0\r\n\r\n", ends(400)),
    Case("a chunk extension", CHUNKED + b"d;a=b\r\n" + BODY + b"\r\n0\r\n\r\n", goes_on(201), ends(400)),
    Case("a trailer", CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n", goes_on(201), ends(400)),
    Case("a trailer of 60,000 headers", CHUNKED + b"d\r\n" + BODY + b"\r\n0\r\n" + b"X: y\r\n" * 60_000 + b"\r\n", ends(400), ends()),
    alike("a chunk of bare LF", CHUNKED + b"d\n" + BODY + b"\n0\n\n" + b"\r\n" * 40, ends(400)),
    *(alike(f"a chunk of size {size!r}", CHUNKED + size + b"\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400))
      for size in (b"+d", b"0xd", b"-d", b"1_3", b"", b" d", b"g")),
    alike("a chunk of a huge size", CHUNKED + b"f" * 20 + b"\r\n", ends(400)),
    alike("a chunk that is longer than it says", CHUNKED + b"c\r\n" + BODY + b"\r\n0\r\n\r\n", ends(400)),
    # Connections
    alike("close", LIVE + b"Connection: close\r\n\r\n", ends(200)),
    alike("what comes after close", LIVE + b"Connection: close\r\n\r\n" + LIVE + b"\r\n", ends(200)),
    *(alike(f"close in a list: {options}", LIVE + b"".join(b"Connection: %b\r\n" % option for option in options) + b"\r\n", ends(200))
      for options in ([b"close, x"], [b"x,close"], [b"x ,\tClose , y"], [b"keep-alive, close"], [b"close, keep-alive"],
                      [b"keep-alive", b"close"], [b"close", b"keep-alive"], [b"x", b"close"], [b"close", b"x"], [b", close ,"])),
    *(alike(f"close in a list, for a GUID: {options}", b"GET %b HTTP/1.1\r\nHost: a\r\n" % PATH
            + b"".join(b"Connection: %b\r\n" % option for option in options) + b"\r\n", ends(404))
      for options in ([b"close, x"], [b"keep-alive, close"], [b"keep-alive", b"close"], [b"close", b"keep-alive"])),
    *(alike(f"no close in a list: {options!r}", LIVE + b"Connection: %b\r\n\r\n" % options, goes_on(200))
      for options in (b"x, y", b"keep-alive, x", b"closed, x", b"x-close", b",")),
    *(alike(f"close in a list under HTTP/1.0: {options}", b"GET %b HTTP/1.0\r\n" % path
            + b"".join(b"Connection: %b\r\n" % option for option in options) + b"\r\n", ends(status))
      for options in ([b"keep-alive, close"], [b"close, keep-alive"], [b"keep-alive", b"close"], [b"close", b"keep-alive"])
      for path, status in ((b"/livez", 200), (PATH, 404))),
    alike("HTTP/1.0, kept alive", b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", goes_on(200)),
    alike("another protocol is offered", LIVE + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", goes_on(200)),
    alike("another protocol, and a body", PUT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 13\r\n\r\n" + BODY,
          goes_on(201)),
    alike("another protocol, and chunks",
          PUT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n",
          goes_on(201)),
    alike("another protocol, and no byte of a body",
          PUT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", goes_on(400)),
    *(
        Case(f"after another request, {name}", PUT + b"Content-Length: 13\r\n\r\n" + BODY + junk, ends(201, 400), ends(201, *rest))
        for name, junk, rest in (
            ("a NUL", b"\0", [400]), ("a brace", b"}", [400]), ("blanks", b"  x", [400]), ("text", b"x y", [400]),
            ("an unknown method", b"BREW /livez HTTP/1.1\r\nHost: a\r\n\r\n", [501]),
            ("a method of RTSP", b"PLAY /livez HTTP/1.1\r\nHost: a\r\n\r\n", [501]),
        )
    ),
    alike("a fault behind a request", LIVE + b"\r\nGET /livez HTTP/1.1\r\nX : y\r\n\r\n", ends(200, 400)),
]  # fmt: skip


async def answers(port: int, parts: Sequence[bytes]) -> Answer:
    """Send the parts, and the probe, and tell what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    statuses, probed = [], False
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        writer.write(PROBE)
        while not probed:
            reply = await asyncio.wait_for(read_reply(reader, "GET"), 30)
            statuses.append(reply.status)
            probed = reply.headers.get("X-Request-Id") == "probe"
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        await hang_up(writer)
    return Answer(tuple(statuses[:-1] if probed else statuses), probed)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_every_raw_request_gets_its_response(serving: Serving, server: str, case: Case) -> None:
    async with serving() as client:
        expected = case.ours if server == "httptools" else case.tornados
        assert await answers(client.port, [case.sent]) == expected
        assert (await client.get("/livez")).status == 200


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("more", [b"", b"Content-Encoding: identity\r\n"], ids=["fast path", "handler"])
async def test_trailing_whitespace_is_not_part_of_a_value(serving: Serving, more: bytes, blank: bytes) -> None:
    """In a condition, and in the id of the request, which the answer repeats."""
    async with serving() as client:
        tag = (await client.put(PATH.decode(), {"user": "a"})).headers["ETag"].encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = b"%b HTTP/1.1\r\nHost: a%b\r\nX-Request-Id: b%b\r\n%b" % (PATH, blank, blank, more)
        for _ in range(2):
            writer.write(b"GET " + head + b"If-None-Match: %b%b\r\n\r\n" % (tag, blank))
            reply = await asyncio.wait_for(read_reply(reader, "GET"), 30)
            assert (reply.status, reply.headers["X-Request-Id"]) == (304, "b")
        writer.write(b"DELETE " + head + b"If-Match: %b%b\r\n\r\n" % (tag, blank))
        assert (await asyncio.wait_for(read_reply(reader, "DELETE"), 30)).status == 204
        await hang_up(writer)


async def test_request_can_arrive_byte_by_byte(serving: Serving) -> None:
    request = CHUNKED + b"4\r\n" + BODY[:4] + b"\r\n9\r\n" + BODY[4:] + b"\r\n0\r\n\r\n" + LIVE + b"\r\n"
    async with serving() as client:
        assert await answers(client.port, [request[place : place + 1] for place in range(len(request))]) == goes_on(
            201, 200
        )
        for place in range(1, len(request)):
            assert await answers(client.port, [request[:place], request[place:]]) == goes_on(200, 200), place


async def test_thousand_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    kinds = [b"GET %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\n\r\n", b"HEAD %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\n\r\n",
             b"PUT %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\nContent-Length: 13\r\n\r\n" + BODY]  # fmt: skip
    sent = b"".join(kinds[number % 3] % (PATH, number) for number in range(1000))
    async with serving() as client:
        await client.put(PATH.decode(), {"user": "a"})
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(sent)
        for number in range(1000):
            reply = await asyncio.wait_for(read_reply(reader, "HEAD" if number % 3 == 1 else "GET"), 30)
            assert (reply.status, reply.headers["X-Request-Id"]) == (200, str(number))
        await hang_up(writer)


# Only our server has a parser that stops at these.
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
    """Or the first, where the connection ends with it."""
    count = 1500
    async with serving() as client:
        await client.put(PATH.decode(), {"user": "a"})
        answer = await answers(client.port, [request_ * count])
        if request_.startswith((b"CONNECT", b"BREW")):
            assert answer in {ends(404), ends(501, 400)}
        else:
            assert set(answer.statuses) <= {200, 501}
            assert (len(answer.statuses), answer.goes_on) == (count, True)
        assert (await client.get("/livez")).status == 200


@pytest.mark.parametrize("second", [PUT + b"Content-Length: 13\r\n\r\n" + BODY, LIVE + b"\r\n", b"GET /gui"])
async def test_bytes_after_a_read_are_not_taken_for_its_end(serving: Serving, second: bytes) -> None:
    read = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % PATH
    rest = b"d/%b HTTP/1.1\r\nHost: a\r\n\r\n" % GUID.encode() if second == b"GET /gui" else b""
    async with serving() as client:
        await client.put(PATH.decode(), {"user": "a"})
        for _ in range(3):
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
                writer.write(read + second)
                assert (await read_reply(reader, "GET")).status == 200
                writer.write(rest)
                assert (await read_reply(reader, "GET")).status == 200
                await hang_up(writer)


async def test_half_closed_client_gets_its_responses(serving: Serving, server: str) -> None:
    if server == "tornado":
        return  # which hangs up on whoever has nothing more to send
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(PUT + b"Content-Length: 13\r\n\r\n" + BODY + LIVE + b"\r\n")
        writer.write_eof()
        assert re.findall(rb"HTTP/1.1 (\d+)", await asyncio.wait_for(reader.read(), 30)) == [b"201", b"200"]
        await hang_up(writer)


@pytest.mark.parametrize("part", [b"GET /liv", PUT + b"Content-Length: 100\r\n\r\n{", CHUNKED + b"d\r\n{"])
async def test_client_that_disconnects_mid_request_leaves_no_trace(serving: Serving, part: bytes) -> None:
    async with serving() as client:
        for gone in (reset, hang_up):
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(part)
            await writer.drain()
            await gone(writer)
        assert (await client.get("/livez")).status == 200
    # and the service ends without having to wait for them: `serving` waits for what is under way


def test_differences_between_servers_are_listed() -> None:
    document = (
        (ROOT / "docs" / "http-server.md").read_text(encoding="utf-8").partition("## Where the servers differ")[2]
    )
    told = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", document, re.MULTILINE)[1:]

    assert told == [
        (case.name, *map(_told, (case.ours, case.tornados))) for case in CASES if case.ours != case.tornados
    ]


def _told(answer: Answer) -> str:
    said = ", ".join(map(str, answer.statuses)) or "nothing"
    return f"{said}, {'goes on' if answer.goes_on else 'ends'}"
