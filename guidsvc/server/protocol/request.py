"""A request as it comes over a connection: its head, as much of its body as has come; and what is no request.

llhttp has read it before. What llhttp lets through and RFC 9112 does not is refused here.
"""

import re
from collections import deque

from httptools import HttpParserError
from tornado.httputil import HTTPHeaders

from guidsvc.errors import InvalidField, InvalidRequest
from guidsvc.http.errors import NotImplementedHere, TooLarge, VersionNotSupported
from guidsvc.http.headers.recognized import READ

PART = 64 * 1024
"""Bytes of a body that are handed on at once."""
OVERHEAD_BYTES = 1024
"""What a request takes up beside its head and body, about."""
RawHeaders = list[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_QUOTED = re.compile(r":? *['\"].*|: .*", re.DOTALL)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_READING = _FRAMING | {b"host", b"expect"}


_NOTHING: deque[bytes | bytearray] = deque()


class RawRequest:
    """A request, with the headers that the service reads.

    `last` says that the client will send no other; `whole` that all of it has come.
    """

    __slots__ = (
        "_head_bytes",
        "_values",
        "buffered",
        "chunks",
        "has_body",
        "headers",
        "last",
        "length",
        "method",
        "seconds",
        "target",
        "total",
        "version",
        "waits",
        "whole",
    )

    def __init__(self, method: bytes, target: bytes, version: str, headers: RawHeaders, *, last: bool) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = [header for header in headers if header[0].lower() in READ]
        self.last = last
        self._head_bytes = len(target) + sum(len(name) + len(value) for name, value in self.headers)
        self._values = _values(self.headers)
        self.has_body = b"content-length" in self._values or b"transfer-encoding" in self._values
        self.length = self._length()
        """Bytes of the body, where its head says so."""
        self.whole = not self.has_body
        self.waits = version == "HTTP/1.1" and self.has_body and b"100-continue" in self._values.get(b"expect", ())
        """The client waits to be told to go on before it sends the body."""
        self.chunks: deque[bytes | bytearray] = deque() if self.has_body else _NOTHING
        """What has come of the body, and nobody has taken."""
        self.buffered = self.total = 0
        """Bytes of that, and of the body in all."""
        self.seconds: float | None = None
        """In which the body has to come whole; None is for ever."""

    def put(self, chunk: bytes) -> None:
        """Add a part of the body: small ones are joined, as an object each would take more memory than the body.

        Large ones are cut, so that the handler gives way to others in between.
        """
        chunks = self.chunks
        if chunks and len(chunks[-1]) + len(chunk) <= PART:
            last = chunks[-1]
            if not isinstance(last, bytearray):
                last = chunks[-1] = bytearray(last)
            last += chunk
        else:
            chunks.extend(chunk[start : start + PART] for start in range(0, len(chunk), PART))
        self.buffered += len(chunk)
        self.total += len(chunk)

    def take(self) -> bytes:
        """Return the part of the body that came first."""
        chunk = self.chunks.popleft()
        self.buffered -= len(chunk)
        return bytes(chunk)

    @property
    def held_bytes(self) -> int:
        """Bytes that the request takes up. A body counts until the answer; lines, until their handler takes them."""
        return OVERHEAD_BYTES + self._head_bytes + (self.buffered if self.seconds is None else self.total)

    def validate(self) -> None:
        """Raise InvalidRequest if this is no request that can be answered."""
        codings = self._values.get(b"transfer-encoding")
        if codings is not None and (codings != [b"chunked"] or self.version == "HTTP/1.0"):
            raise self._coding_fault(b",".join(codings))
        hosts = len(self._values.get(b"host", ()))
        if hosts > 1 or (hosts == 0 and self.version == "HTTP/1.1"):
            raise not_http(f"it names {hosts} times its Host, which must be once")

    def _coding_fault(self, codings: bytes) -> Exception:
        """Return what is wrong with these transfer codings (RFC 9112, 6.1 and 6.3)."""
        *others, last = (coding.strip() for coding in codings.split(b","))
        if self.version == "HTTP/1.0" or last != b"chunked" or not all(others) or b"chunked" in others:
            return not_http(
                "under HTTP/1.1 the last transfer coding of a body is chunked, once; under HTTP/1.0 there is none"
            )
        return NotImplementedHere("The only transfer coding is chunked: send the body without another.")

    def _length(self) -> int | None:
        """Return the length of the body: llhttp has seen that it is a number."""
        lengths = self._values.get(b"content-length")
        return int(lengths[0].lstrip(b"0") or b"0") if lengths and lengths[0].isdigit() else None

    def fields(self) -> HTTPHeaders:
        """Return the headers as Tornado has them."""
        fields = HTTPHeaders()
        for name, value in self.headers:
            fields.add(name.decode("latin-1"), value.decode("latin-1"))
        return fields

    def framing(self) -> bytes:
        """Return the head of a request whose body is framed as the body of this one."""
        lines = [name + b": " + value for name, value in self.headers if name.lower() in _FRAMING]
        return b"\r\n".join([b"POST / HTTP/1.1", *lines, b"", b""])


def _values(headers: RawHeaders) -> dict[bytes, list[bytes]]:
    """Return those headers that say how a request is to be read, in lower case."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _READING:
            values.setdefault(lower, []).append(value.lower())
    return values


def size_of(target: bytes, headers: RawHeaders) -> int:
    """Return how many bytes a head has, about."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers)


def check_version(version: str) -> None:
    """Accept HTTP/1, of which later minor versions are read as 1.1; refuse any other (RFC 9110, 2.5)."""
    if version.startswith("1."):
        return
    if version.startswith("0."):  # so llhttp calls a request line without a version, too
        raise not_http("its first line names no version of HTTP that has headers; send HTTP/1.1")
    raise VersionNotSupported(f"HTTP/{version} is not spoken here; send HTTP/1.1.")


def is_token(text: bytes) -> bool:
    """Whether this may be the name of a method."""
    return _TOKEN.fullmatch(text) is not None


def fault_of(error: HttpParserError) -> Exception:
    """Return what llhttp found as what it is to the client."""
    if "Content-Length overflow" in str(error):
        return TooLarge("A body of so many bytes is read nowhere.")
    return not_http(str(error))


def not_http(detail: str) -> InvalidRequest:
    """Make the error that says why this is no request."""
    return InvalidRequest(InvalidField("", f"is no HTTP request that is understood here: {detail}"))


def unquoted(detail: str) -> str:
    """Return what Tornado says is wrong with a request, less what it quotes of it, which may be a key."""
    return _QUOTED.split(detail, maxsplit=1)[0]
