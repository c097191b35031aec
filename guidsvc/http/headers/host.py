"""The accepted host names of requests.

DNS rebinding makes a web page same-origin with this service: the page's name is made to resolve to a loopback address.
CORS does not help then, but the Host header still contains the page's name. So a service that any local client may
use answers only to loopback names and to the names in its settings.
"""

import re
from collections.abc import Sequence

from tornado.httputil import HTTPServerRequest

from guidsvc.errors import StartError

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LOOPBACK = rf"(?:[a-z0-9_-]+\.)*localhost\.?|127(?:\.{_OCTET}){{3}}|\[::1\]"
_PORT = r"(?::[0-9]{0,5})?"
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", re.IGNORECASE)
_WELL_FORMED = re.compile(rb"[A-Za-z0-9.-]+(?::[0-9]{0,5})?")
LONG_PORT = re.compile(rb":[0-9]{6}")
"""Found in a Host value whose port has more than 5 digits. Tornado converts any port, and Python no number of 4,301."""
LONG_TARGET_PORT = re.compile(rb"https?://(?:[^/?#]*@)?[^/?#@]*:[0-9]{6}", re.IGNORECASE)
"""Matches the beginning of an absolute target with such a port."""


class HostNames:
    """The accepted host names: `names` and the loopback names, with any port; every name if `names` is None."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._any = names is None
        self.pattern = _WELL_FORMED
        """Pattern of accepted, well-formed Host values; others need a full check."""
        if names is not None:
            alternatives = "".join(rf"|{re.escape(_validated(name))}\.?" for name in names)
            self.pattern = re.compile(f"(?:{_LOOPBACK}{alternatives}){_PORT}".encode(), re.IGNORECASE)

    def accepts(self, request: HTTPServerRequest) -> bool:
        """Return whether the Host header, and an absolute request target, name an accepted host.

        HTTP/1.0 clients may omit Host; Tornado then assumes a loopback address. Browsers do not use HTTP/1.0.
        """
        return self._any or self.rejected(request) is None

    def rejected(self, request: HTTPServerRequest) -> str | None:
        """Return the host that the target or the Host header of a request names and that is not accepted, or None."""
        in_target, in_header = request.host, request.headers.get("Host", request.host)
        if not self.has(in_target):
            return in_target
        return None if in_header == in_target or self.has(in_header) else in_header

    def has(self, host: str) -> bool:
        """Return whether a host name is accepted, with or without a port."""
        return self._any or self.pattern.fullmatch(host.encode("latin-1", "replace")) is not None


def _validated(name: str) -> str:
    """Return a configured name; raise StartError if it is not a host name."""
    if _NAME.fullmatch(name) is None:
        raise StartError(
            f"hosts: {name!r} is not a host name; write names as clients do, without scheme and port: "
            "registry.example,10.0.0.5"
        )
    return name
