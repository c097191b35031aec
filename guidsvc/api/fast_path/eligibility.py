"""What is kept of the head of a plain request: the headers that make a difference; and whether it is plain at all."""

from collections.abc import Mapping

from httptools import HttpRequestParser

from guidsvc.api.parsing import body
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.request_id import draw, request_id
from guidsvc.server.protocol.request import RawHeaders

DISQUALIFYING_HEADERS = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"content-encoding"})
"""What these ask for, only the long way has; and, where pages are let in, what one asks by its Origin."""
_KEPT = {
    b"authorization": "Authorization",
    b"connection": "Connection",
    b"x-request-id": "X-Request-Id",
    b"content-length": "Content-Length",
    b"content-type": "Content-Type",
    b"prefer": "Prefer",
    b"if-match": "If-Match",
    b"if-none-match": "If-None-Match",
    b"x-forwarded-for": "X-Forwarded-For",
    b"x-forwarded-proto": "X-Forwarded-Proto",
}
"""What makes a difference; all others do not."""


def fast_path_headers(
    headers: RawHeaders, parser: HttpRequestParser, long: frozenset[bytes], names: HostNames
) -> dict[str, str] | None:
    """Return those headers that make a difference, or None if they ask for what only the long way has."""
    kept: dict[str, str] = {}
    hosts = 0
    for name, value in headers:
        lower = name.lower()
        if lower == b"host":
            hosts += 1
            if names.plain.fullmatch(value) is None:
                return None
        elif lower in _KEPT:
            known = _KEPT[lower]
            if known in kept:
                return None
            kept[known] = value.decode("latin-1")
        elif lower in long:
            return None
    if hosts != 1 or not parser.should_keep_alive():
        return None
    if "Connection" in kept and (kept["Connection"].lower() != "keep-alive" or parser.get_http_version() != "1.1"):
        return None
    return kept


def has_small_body(kept: Mapping[str, str]) -> bool:
    """Whether the body is one that a record may have; llhttp has seen that its length is a number."""
    length = kept.get("Content-Length", "0")
    return len(length) <= len(str(body.MAX_BYTES)) and int(length) <= body.MAX_BYTES


def request_id_for(kept: Mapping[str, str]) -> str:
    """Return what the request is called: as its client says, where that is sane."""
    given = kept.get("X-Request-Id")
    return draw() if given is None else request_id(given)
