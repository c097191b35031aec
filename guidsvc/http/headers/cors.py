"""Cross-origin resource sharing (CORS) for browsers, according to the Fetch standard.

Only exactly listed origins are allowed. The service uses no cookies, so no credentials are shared. CORS does not
replace authentication: an allowed page must still send a key where one is required.
"""

import re
from collections.abc import Mapping, Sequence

from guidsvc.errors import StartError

ALLOWED = (
    "Authorization",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "Idempotency-Key",
    "Last-Event-ID",
    "Prefer",
    "X-Request-Id",
)
"""Request headers that a page may send."""
EXPOSED = (
    "ETag",
    "Location",
    "Link",
    "Retry-After",
    "X-Request-Id",
    "RateLimit",
    "RateLimit-Policy",
    "WWW-Authenticate",
    "Allow",
    "Accept-Patch",
    "Preference-Applied",
    "Idempotent-Replayed",
    "Cache-Status",
    "Server-Timing",
)
"""Response headers that a page may read, besides those that are always readable."""
MAX_AGE_SECONDS = 600
"""Time for which a browser may cache a preflight response, in seconds."""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}

_OTHER_SITES = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site (W3C Fetch Metadata) in requests of pages of other origins."""


class Cors:
    """The CORS policy for a list of allowed origins; raises StartError unless each is written as browsers do."""

    def __init__(self, origins: Sequence[str] = ()) -> None:
        for origin in origins:
            _check(origin)
        self.any = bool(origins)
        """Whether any origin is allowed; if not, responses never have CORS headers."""
        self._headers = {
            origin: {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": ", ".join(EXPOSED),
            }
            for origin in origins
        }

    def headers_for(self, origin: str | None) -> dict[str, str]:
        """Return the CORS headers of a response to this origin; empty if the origin is not allowed or absent."""
        return {} if origin is None else self._headers.get(origin, {})

    def refuses(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of another origin, which is not allowed, sends this request.

        It does not if a person follows a link from there. Programs and old browsers do not say where a request is from.
        """
        if headers.get("Sec-Fetch-Site") not in _OTHER_SITES:
            return False
        is_link = (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document")
        return not (is_link or self.headers_for(headers.get("Origin")))

    def preflight(self, origin: str | None, requested_method: str | None, methods: str) -> dict[str, str]:
        """Return the additional headers of a preflight response; empty unless it requests a method."""
        if requested_method is None or not self.headers_for(origin):
            return {}
        return {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": ", ".join(ALLOWED),
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        }


def _check(origin: str) -> None:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise StartError(
            f"cors_origins: {origin!r} is not an origin; write scheme://host or scheme://host:port in lower case, "
            "as browsers do; * and null are not accepted"
        )
    if (match[1], match[2]) in _DEFAULT_PORTS or int(match[2] or 1) > 65535:  # noqa: PLR2004  # the highest port
        raise StartError(f"cors_origins: {origin!r}: browsers send no port {match[2]} for {match[1]}; leave it out")
