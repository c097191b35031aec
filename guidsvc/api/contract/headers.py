"""Declarations of the headers of the contract, for the OpenAPI document. Nothing here parses or sends a header."""

from typing import Any, NamedTuple

from guidsvc.domain.events.query import CURSOR_PATTERN


class Header(NamedTuple):
    """A header: its name, meaning, JSON Schema, an example, and whether it is always present."""

    name: str
    description: str
    schema: dict[str, Any]
    example: str | None = None
    required: bool = False


def always(*headers: Header) -> tuple[Header, ...]:
    """Return the headers, marked as always present."""
    return tuple(header._replace(required=True) for header in headers)


_TEXT = {"type": "string"}
_TAG = r'(W/)?"[!#-~]*"'
_TAGS = {"type": "string", "pattern": rf"^(\*|{_TAG}( ?, ?{_TAG})*)$"}

# Request headers

IF_MATCH = Header(
    "If-Match",
    "Process the request only if the record has one of these entity tags, or exists (`*`). Otherwise 412.",
    _TAGS,
)
IF_NONE_MATCH = Header(
    "If-None-Match",
    "Process the request only if the record has none of these entity tags, or does not exist (`*`). Otherwise 304 for "
    "a read and 412 for a write.",
    _TAGS,
)
IF_NONE_MATCH_HERE = Header(
    "If-None-Match", "The entity tags that the client has cached, or `*`: 304 if one matches.", _TEXT
)
PREFER_MINIMAL = Header("Prefer", "`return=minimal` omits the body of the response.", _TEXT)
PREFER_TOTAL = Header("Prefer", "`return=total-count` adds `total`, the number of records on all pages.", _TEXT)
IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    "Makes the request safe to retry: for 24 hours, the same request returns the first response again. 1 to 255 "
    'printable ASCII characters. If the key contains a space or a `"`, enclose it in `"..."`, and write `\\"` for `"` '
    "and `\\\\` for `\\`.",
    {"type": "string", "pattern": r'^([!#-~]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$'},
)
LAST_EVENT_ID = Header(
    "Last-Event-ID",
    "The same as `cursor`, which it overrides unless it is empty. Browsers send it.",
    {"type": "string", "pattern": f"^$|{CURSOR_PATTERN}"},
)
CLIENT_REQUEST_ID = Header(
    "X-Request-Id",
    "The request id for the log and the response: 1 to 128 characters of `A-Z a-z 0-9 . _ -`. The service "
    "generates one if this is missing or malformed.",
    _TEXT,
)

# Response headers

REQUEST_ID = Header("X-Request-Id", "The request id, as in the log.", _TEXT, "my-request-1")
ETAG = Header(
    "ETag",
    "The version of the record, as an entity tag.",
    {"type": "string", "pattern": '^"[^"]+"$'},
    '"1795420608123"',
)
LAST_MODIFIED = Header("Last-Modified", "The time of the last change.", _TEXT, "Sun, 22 Nov 2026 20:36:48 GMT")
LOCATION = Header("Location", "The path of the new record.", _TEXT, "/guid/9094E4C980C74043A4B586B420E69DDF")
LINK = Header(
    "Link", "The next page, if there is one (RFC 8288).", _TEXT, '</guid?cursor=AZCU5MmAx0BDpLWGtCDmnd8>; rel="next"'
)
ALLOW = Header("Allow", "The methods that this path supports.", _TEXT, "GET, HEAD, OPTIONS")
ACCEPT = Header("Accept", "The media types that the body may have.", _TEXT, "application/json")
ACCEPT_PATCH = Header(
    "Accept-Patch",
    "The media types that the body of a PATCH may have.",
    _TEXT,
    "application/merge-patch+json, application/json",
)
RETRY_AFTER = Header(
    "Retry-After", "The time to wait before a retry, in seconds.", {"type": "string", "pattern": "^[0-9]+$"}, "1"
)
PREFERENCE_APPLIED = Header(
    "Preference-Applied", "The preferences of the request that were applied.", _TEXT, "return=minimal"
)
REPLAYED = Header(
    "Idempotent-Replayed",
    "Present if this is the stored response to an earlier request with the same `Idempotency-Key`.",
    {"type": "string", "enum": ["true"]},
    "true",
)
NOSNIFF = Header(
    "X-Content-Type-Options",
    "Browsers must not guess the media type.",
    {"type": "string", "enum": ["nosniff"]},
    "nosniff",
)
NO_FRAMES = Header(
    "X-Frame-Options",
    "No page may embed the response in a frame.",
    {"type": "string", "enum": ["DENY"]},
    "DENY",
)
ONE_ORIGIN = Header(
    "Cross-Origin-Resource-Policy",
    "No page of another origin may load the response, except as `--cors-origins` allows.",
    {"type": "string", "enum": ["same-origin"]},
    "same-origin",
)
ALLOW_ORIGIN = Header(
    "Access-Control-Allow-Origin",
    "The origin of the requesting page, if `--cors-origins` allows it.",
    _TEXT,
    "https://a.example",
)
REFERRER = Header("Referrer-Policy", "What browsers send as `Referer` when they leave the page.", _TEXT, "no-referrer")
CACHE_CONTROL = Header("Cache-Control", "Who may cache it, and for how long.", _TEXT, "private, no-cache")
CONTENT_ENCODING = Header(
    "Content-Encoding",
    "Present if the content is compressed, as `Accept-Encoding` permits.",
    {"type": "string", "enum": ["gzip"]},
    "gzip",
)
VARY = Header("Vary", "The request headers that the response depends on.", _TEXT, "Accept")
CONTENT_SECURITY = Header("Content-Security-Policy", "What the page may load.", _TEXT, "default-src 'none'")
OF_DATA_PAGES = (VARY, CONTENT_SECURITY, REFERRER)
"""Headers that a response has if a browser gets it as a page."""
ACCEL_BUFFERING = Header(
    "X-Accel-Buffering",
    "Present in a stream of events, which proxies must not buffer.",
    {"type": "string", "enum": ["no"]},
    "no",
)
CACHE_STATUS = Header(
    "Cache-Status",
    "The source of the record (RFC 9211), with `--cache-status`.",
    {"type": "string", "pattern": "^guidsvc; "},
    "guidsvc; hit; detail=l1",
)
WWW_AUTHENTICATE = Header(
    "WWW-Authenticate",
    "The authentication challenge (RFC 6750).",
    _TEXT,
    'Bearer realm="guidsvc", error="invalid_token"',
)

OF_PROBLEMS = {header.name: header for header in (ALLOW, ACCEPT, ACCEPT_PATCH, ETAG, RETRY_AFTER, WWW_AUTHENTICATE)}
"""Headers that only some problems have, by name."""
