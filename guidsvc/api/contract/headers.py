"""The headers of the contract, as they are told of: what each is called, holds and means. Nothing here reads one."""

from typing import Any, NamedTuple


class Header(NamedTuple):
    """A header: what it means, what it looks like, as JSON Schema, and whether it is always there."""

    name: str
    description: str
    schema: dict[str, Any]
    example: str | None = None
    required: bool = False


def always(*headers: Header) -> tuple[Header, ...]:
    """Return the headers as ones that are always there."""
    return tuple(header._replace(required=True) for header in headers)


_TEXT = {"type": "string"}
_TAG = r'(W/)?"[!#-~]*"'
_TAGS = {"type": "string", "pattern": rf"^(\*|{_TAG}( ?, ?{_TAG})*)$"}

# Of requests

IF_MATCH = Header(
    "If-Match",
    "Only if the record is at one of these versions: entity tags, or `*` for any. Else 412.",
    _TAGS,
)
IF_NONE_MATCH = Header(
    "If-None-Match",
    "Only if the record is at none of these versions: entity tags, or `*` for any. Else 304 for a read, and 412.",
    _TAGS,
)
IF_NONE_MATCH_HERE = Header("If-None-Match", "Not if it is one of these: entity tags, or `*` for any.", _TEXT)
PREFER_MINIMAL = Header("Prefer", "`return=minimal` is answered without a body.", _TEXT)
PREFER_TOTAL = Header("Prefer", "`return=total-count` adds the `total` of all pages.", _TEXT)
IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    "Makes it safe to send the request again: for 24 hours it is answered as it was the first time. 1 to 255 printable "
    'ASCII characters, without blanks and `"`; or with them, in `"..."`, with `\\"` for `"`, `\\\\` for `\\`.',
    {"type": "string", "pattern": r'^([!#-~]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$'},
)
GIVEN_ID = Header(
    "X-Request-Id",
    "What the request is called in the log and in the reply, if it is 1 to 128 of `A-Z a-z 0-9 . _ -`.",
    _TEXT,
)

# Of replies

REQUEST_ID = Header("X-Request-Id", "What the request is called in the log.", _TEXT, "my-request-1")
ETAG = Header("ETag", "The version, as an entity tag.", {"type": "string", "pattern": '^"[^"]+"$'}, '"1795420608123"')
LAST_MODIFIED = Header("Last-Modified", "When the record was changed.", _TEXT, "Sun, 22 Nov 2026 20:36:48 GMT")
LOCATION = Header("Location", "Where the new record is.", _TEXT, "/guid/9094E4C980C74043A4B586B420E69DDF")
LINK = Header(
    "Link", "The next page, if there is one (RFC 8288).", _TEXT, '</guid?cursor=AZCU5MmAx0BDpLWGtCDmnd8>; rel="next"'
)
ALLOW = Header("Allow", "The methods that are served here.", _TEXT, "GET, HEAD, OPTIONS")
ACCEPT = Header("Accept", "What a body can be.", _TEXT, "application/json")
ACCEPT_PATCH = Header(
    "Accept-Patch", "What the body of a PATCH can be.", _TEXT, "application/merge-patch+json, application/json"
)
RETRY_AFTER = Header(
    "Retry-After", "Seconds until it is worth asking again.", {"type": "string", "pattern": "^[0-9]+$"}, "1"
)
PREFERENCE_APPLIED = Header("Preference-Applied", "What was preferred, and is done.", _TEXT, "return=minimal")
REPLAYED = Header(
    "Idempotent-Replayed",
    "The answer was given before, under the same key.",
    {"type": "string", "enum": ["true"]},
    "true",
)
NOSNIFF = Header(
    "X-Content-Type-Options",
    "That the body is what Content-Type says.",
    {"type": "string", "enum": ["nosniff"]},
    "nosniff",
)
NO_FRAMES = Header(
    "X-Frame-Options",
    "That no page may embed the reply.",
    {"type": "string", "enum": ["DENY"]},
    "DENY",
)
STRICT = Header(
    "Strict-Transport-Security", "That only TLS is to be spoken (RFC 6797), where it is.", _TEXT, "max-age=31536000"
)
ALLOW_ORIGIN = Header(
    "Access-Control-Allow-Origin",
    "Whose page has asked, if the service is set up to let it (CORS).",
    _TEXT,
    "https://a.example",
)
REFERRER = Header("Referrer-Policy", "What the page tells others of itself.", _TEXT, "no-referrer")
CACHE_CONTROL = Header("Cache-Control", "Who may keep the reply, and how long.", _TEXT, "private, no-cache")
VARY = Header("Vary", "The headers of the request that the reply depends on.", _TEXT, "Accept")
CONTENT_SECURITY = Header("Content-Security-Policy", "What the page may load.", _TEXT, "default-src 'none'")
CACHE_STATUS = Header(
    "Cache-Status",
    "Where the record came from (RFC 9211), if the service is set up to tell.",
    {"type": "string", "pattern": "^guidsvc; "},
    "guidsvc; hit; detail=l1",
)
SERVER_TIMING = Header(
    "Server-Timing",
    "How many milliseconds it took, if the service is set up to tell.",
    _TEXT,
    "store;dur=0.12, total;dur=0.90",
)

WWW_AUTHENTICATE = Header(
    "WWW-Authenticate", "How to show who you are (RFC 6750).", _TEXT, 'Bearer realm="guidsvc", error="invalid_token"'
)

OF_PROBLEMS = {header.name: header for header in (ALLOW, ACCEPT, ACCEPT_PATCH, ETAG, RETRY_AFTER, WWW_AUTHENTICATE)}
"""Those that a problem may bring, by name."""
