"""A parsed request, its buffered body, and its validation.

llhttp has parsed it. This module rejects what llhttp accepts and RFC 9112 does not.
"""

import re
from collections import deque
from typing import NamedTuple

from httptools import HttpParserError
from tornado.httputil import HTTPHeaders

from guidsvc.errors import InvalidField, InvalidRequest
from guidsvc.http.errors import NotImplementedHere, TooLarge, VersionNotSupported
from guidsvc.http.headers.host import LONG_PORT, LONG_TARGET_PORT
from guidsvc.http.headers.recognized import READ

PART = 64 * 1024
"""Maximum bytes of a body passed to a handler at once."""
OVERHEAD_BYTES = 1024
"""Approximate memory of a request, beside its head and body."""
LINE_BYTES = 150
"""Approximate memory of a header line beside its characters: a tuple, two bytes objects, and a place in a list."""
COPY_BYTES = 50
"""The same of a value in lower case, which a header that determines how the request is read also has."""
BODY_BYTES = 800
"""Approximate memory of a body beside its bytes: the queue of its parts."""
RawHeaders = list[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
PORT_FAULT = "its host has a port of more than 5 digits; send a port up to 65535"
_QUOTED = re.compile(r":? *['\"].*|: .*", re.DOTALL)
TLS_START = b"\x16\x03"
_OTHER_PROTOCOLS = {
    TLS_START: "TLS (https) sent to an http port; use http://",
    b"PRI * HTTP/2": "HTTP/2 is not supported; use HTTP/1.1",
}
"""The first bytes of a TLS handshake (RFC 8446, 5.1) and of HTTP/2 (RFC 9113, 3.4), each with its error message."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_READING = _FRAMING | {b"host", b"expect"}


_NO_CHUNKS: deque[bytes | bytearray] = deque()


class RejectedRequest(NamedTuple):
    """A request that cannot be served: why, and the web origin of its page, if its head was read so far."""

    error: Exception
    origin: str | None = None


class RawRequest:
    """A request, with only the headers that the service reads.

    `last`: the client will send no other request. `is_complete`: the request is complete.
    """

    __slots__ = (
        "_framing_headers",
        "_head_bytes",
        "buffered_bytes",
        "chunks",
        "expects_continue",
        "has_body",
        "headers",
        "is_complete",
        "last",
        "length",
        "method",
        "target",
        "timeout_seconds",
        "total_bytes",
        "version",
    )

    def __init__(self, method: bytes, target: bytes, version: str, headers: RawHeaders, *, last: bool) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers: RawHeaders = []
        self.last = last
        self._head_bytes = len(target)  # of memory
        self._framing_headers: dict[bytes, list[bytes]] = {}  # those that determine how it is read, in lower case
        for header in headers:
            name, value = header
            lower = name.lower()
            if lower in READ:
                self.headers.append(header)
                self._head_bytes += LINE_BYTES + len(name) + len(value)
                if lower in _READING:
                    self._head_bytes += COPY_BYTES + len(value)
                    self._framing_headers.setdefault(lower, []).append(value.lower())
        lengths = self._framing_headers.get(b"content-length")
        self.has_body = lengths is not None or b"transfer-encoding" in self._framing_headers
        self.length = None if lengths is None else _length(lengths[0])
        """Content-Length, or None."""
        self.is_complete = not self.has_body
        self.expects_continue = (
            version == "HTTP/1.1" and self.has_body and b"100-continue" in self._framing_headers.get(b"expect", ())
        )
        """Whether the client waits for `100 Continue` before it sends the body."""
        self.chunks: deque[bytes | bytearray] = _NO_CHUNKS
        """Received parts of the body that are not consumed yet."""
        if self.has_body:
            self.chunks = deque()
            self._head_bytes += BODY_BYTES
        self.buffered_bytes = self.total_bytes = 0
        """Bytes in `chunks`, and bytes of the body received in total."""
        self.timeout_seconds: float | None = None
        """Timeout of the whole body; None is unlimited."""

    def put(self, chunk: bytes) -> None:
        """Add a part of the body. Small parts are joined, because an object each would exceed the body in memory.

        Large parts are split, so that the handler yields to other requests in between.
        """
        chunks = self.chunks
        if chunks and len(chunks[-1]) + len(chunk) <= PART:
            last = chunks[-1]
            if not isinstance(last, bytearray):
                last = chunks[-1] = bytearray(last)
            last += chunk
        elif 0 < len(chunk) <= PART:
            chunks.append(chunk)
        else:
            chunks.extend(chunk[start : start + PART] for start in range(0, len(chunk), PART))
        self.buffered_bytes += len(chunk)
        self.total_bytes += len(chunk)

    def take(self) -> bytes:
        """Remove and return the oldest part of the body."""
        chunk = self.chunks.popleft()
        self.buffered_bytes -= len(chunk)
        return bytes(chunk)

    @property
    def is_stream(self) -> bool:
        """Whether the body has no time limit, because its handler executes it in parts as they arrive."""
        return self.timeout_seconds is None

    @property
    def memory_bytes(self) -> int:
        """Approximate memory. A body counts until the answer; streamed lines, until their handler takes them."""
        return OVERHEAD_BYTES + self._head_bytes + (self.buffered_bytes if self.is_stream else self.total_bytes)

    def validate(self) -> None:
        """Raise InvalidRequest, or NotImplementedHere, if the request cannot be answered."""
        codings = self._framing_headers.get(b"transfer-encoding")
        if codings is not None and (codings != [b"chunked"] or self.version == "HTTP/1.0"):
            raise self._coding_fault(b",".join(codings))
        hosts = self._framing_headers.get(b"host", ())
        if len(hosts) > 1 or (not hosts and self.version == "HTTP/1.1"):
            raise not_http(f"it has {len(hosts)} Host headers; send exactly one")
        if (hosts and LONG_PORT.search(hosts[0])) or LONG_TARGET_PORT.match(self.target):
            raise not_http(PORT_FAULT)

    def _coding_fault(self, codings: bytes) -> Exception:
        """Return the error for unsupported transfer codings (RFC 9112, 6.1 and 6.3)."""
        *others, last = (coding.strip() for coding in codings.split(b","))
        if self.version == "HTTP/1.0" or last != b"chunked" or not all(others) or b"chunked" in others:
            return not_http(
                "in HTTP/1.1 the last transfer coding must be chunked, once; HTTP/1.0 has no transfer codings"
            )
        return NotImplementedHere("The only supported transfer coding is chunked; send the body without any other.")

    def rejected(self, error: Exception) -> RejectedRequest:
        """Return this request as one that cannot be served."""
        return RejectedRequest(error, origin_of(self.headers))

    def fields(self) -> HTTPHeaders:
        """Return the headers in Tornado's type."""
        fields = HTTPHeaders()
        for name, value in self.headers:
            fields.add(name.decode("latin-1"), value.decode("latin-1"))
        return fields

    def framing(self) -> bytes:
        """Return a request head with the same body framing as this request."""
        lines = [name + b": " + value for name, value in self.headers if name.lower() in _FRAMING]
        return b"\r\n".join([b"POST / HTTP/1.1", *lines, b"", b""])


def _length(value: bytes) -> int | None:
    """Return the length of the body, or None; llhttp has checked that it is a number."""
    return int(value.lstrip(b"0") or b"0") if value.isdigit() else None


def origin_of(headers: RawHeaders) -> str | None:
    """Return the Origin of a request, as a handler gets it; None without one."""
    origins = [value.decode("latin-1") for name, value in headers if name.lower() == b"origin"]
    return ",".join(origins) if origins else None


def without_query(target: str) -> str:
    """Return the target of an OPTIONS request without its query, which says nothing about what a resource can do.

    So a preflight succeeds even if its query is refused: the page may then read why its request is.
    """
    return target.partition("?")[0]


def size_of(target: bytes, headers: RawHeaders) -> int:
    """Return the approximate size of a head in bytes."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers)


def check_version(version: str) -> None:
    """Accept any HTTP/1 version, reading later minor versions as 1.1; reject others (RFC 9110, 2.5)."""
    if version.startswith("1."):
        return
    if version.startswith("0."):  # llhttp also reports this for a request line without a version
        raise not_http("its first line names no HTTP version with headers; send HTTP/1.1")
    raise VersionNotSupported(version)


def is_token(text: bytes) -> bool:
    """Whether the text is a valid method name."""
    return _TOKEN.fullmatch(text) is not None


def fault_of(error: HttpParserError, start: bytes) -> Exception:
    """Translate an llhttp error into an error of the service; `start` is the start of the request, if it is known."""
    other = other_protocol(start)
    if other is not None:
        return other
    if "Content-Length overflow" in str(error):
        return TooLarge("The Content-Length is too large for any request.")
    return not_http(str(error))


def other_protocol(start: bytes) -> InvalidRequest | None:
    """Return the error for a request that starts like another protocol, or None if this one does not."""
    for prefix, remedy in _OTHER_PROTOCOLS.items():
        if start.startswith(prefix):
            return InvalidRequest(InvalidField("", remedy, is_clause=True))
    return None


def not_http(detail: str) -> InvalidRequest:
    """Return the error for a malformed request."""
    return InvalidRequest(InvalidField("", f"malformed HTTP request: {detail}", is_clause=True))


def unquoted(detail: str) -> str:
    """Return Tornado's error text without its quotation of the request, which may contain a key."""
    return _QUOTED.split(detail, maxsplit=1)[0]
