"""The host names that requests may be addressed to.

A web page becomes a page of this origin when its own name is made to resolve to a loopback address (DNS rebinding).
CORS does not help then, but the header Host still holds the name of that page. So a service that anybody on this host
may use answers only to names that always mean this host, and to names in its settings.
"""

import re
from collections.abc import Sequence

from tornado.httputil import HTTPServerRequest

from guidsvc.errors import StartError

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LOOPBACK = rf"(?:[a-z0-9_-]+\.)*localhost\.?|127(?:\.{_OCTET}){{3}}|\[::1\]"
_PORT = r"(?::[0-9]{0,5})?"
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", re.IGNORECASE)
_ANY_PLAIN = re.compile(rb"[A-Za-z0-9.:-]+")


class HostNames:
    """The accepted host names: `names` and the loopback names, with any port; every name if `names` is None."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._any = names is None
        self.plain = _ANY_PLAIN
        """Matches a Host that is accepted and well-formed; what it does not match needs a closer look."""
        if names is not None:
            named = "".join(rf"|{re.escape(_checked(name))}\.?" for name in names)
            self.plain = re.compile(f"(?:{_LOOPBACK}{named}){_PORT}".encode(), re.IGNORECASE)

    def accepts(self, request: HTTPServerRequest) -> bool:
        """Whether a request is addressed to an accepted name, in its Host and in its target, if that is absolute.

        Clients of HTTP/1.0 need not send a Host, for which Tornado then puts a loopback address. No browser is one.
        """
        if self._any:
            return True
        return self.has(request.host) and self.has(request.headers.get("Host", request.host))

    def has(self, host: str) -> bool:
        """Whether this is an accepted name, with or without a port."""
        return self._any or self.plain.fullmatch(host.encode("latin-1", "replace")) is not None


def _checked(name: str) -> str:
    """Return a name of the settings; StartError if it is none."""
    if _NAME.fullmatch(name) is None:
        raise StartError(
            f"hosts: {name!r} is no host name; give names as clients write them, without scheme and port: "
            "registry.example,10.0.0.5"
        )
    return name
