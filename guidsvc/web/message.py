"""A request as it comes over a connection: its head, as much of its body as has come; and what is no request.

llhttp has read it before. What llhttp lets through and RFC 9112 does not is refused here.
"""

import re
from collections import deque

from httptools import HttpParserError
from tornado.httputil import HTTPHeaders

from guidsvc.errors import Fault, InvalidRequest
from guidsvc.web.problems import TooLarge

PART = 64 * 1024
"""Bytes of a body that are handed on at once."""
VERSIONS = frozenset({"HTTP/1.0", "HTTP/1.1"})
RawHeaders = list[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_QUOTED = re.compile(r":? *['\"].*|: .*", re.DOTALL)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_READ = _FRAMING | {b"host", b"expect"}


_NOTHING: deque[bytes] = deque()


class Message:
    """A request. `last` says that the client will send no other; `whole` that all of it has come."""

    __slots__ = (
        "_values",
        "buffered",
        "chunks",
        "has_body",
        "headers",
        "last",
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
        self.headers = headers
        self.last = last
        self._values = _values(headers)
        self.has_body = b"content-length" in self._values or b"transfer-encoding" in self._values
        self.whole = not self.has_body
        self.waits = version == "HTTP/1.1" and self.has_body and b"100-continue" in self._values.get(b"expect", ())
        """The client waits to be told to go on before it sends the body."""
        self.chunks: deque[bytes] = deque() if self.has_body else _NOTHING
        """What has come of the body, and nobody has taken."""
        self.buffered = self.total = 0
        """Bytes of that, and of the body in all."""
        self.seconds: float | None = None
        """In which the body has to come whole; None is for ever."""

    def put(self, chunk: bytes) -> None:
        """Add a part of the body, cut so that its handler gives way to others in between."""
        self.chunks.extend(chunk[start : start + PART] for start in range(0, len(chunk), PART))
        self.buffered += len(chunk)
        self.total += len(chunk)

    def take(self) -> bytes:
        """Return the part of the body that came first."""
        chunk = self.chunks.popleft()
        self.buffered -= len(chunk)
        return chunk

    def judge(self) -> None:
        """Raise InvalidRequest if this is no request that can be answered."""
        if self.version not in VERSIONS:
            raise not_http(f"{self.version} is not served here")
        codings = self._values.get(b"transfer-encoding")
        if codings and (codings != [b"chunked"] or self.version == "HTTP/1.0"):
            raise not_http("under HTTP/1.1 a body may be chunked, under HTTP/1.0 not; it is never encoded otherwise")
        hosts = len(self._values.get(b"host", ()))
        if hosts > 1 or (hosts == 0 and self.version == "HTTP/1.1"):
            raise not_http(f"it names {hosts} times its Host, which must be once")

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
        if lower in _READ:
            values.setdefault(lower, []).append(value.lower())
    return values


def size_of(target: bytes, headers: RawHeaders) -> int:
    """Return how many bytes a head has, about."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers)


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
    return InvalidRequest(Fault("", f"is no HTTP request that is understood here: {detail}"))


def unquoted(detail: str) -> str:
    """Return what Tornado says is wrong with a request, less what it quotes of it, which may be a key."""
    return _QUOTED.split(detail, maxsplit=1)[0]
