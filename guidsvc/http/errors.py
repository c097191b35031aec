"""HTTP errors that the domain does not know."""


class NoSuchPath(Exception):
    """The path is not served."""


class MethodNotAllowed(Exception):
    """The path does not support this method; `allow` lists the methods that it supports."""

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"{method} is not supported here; use {' or '.join(allow.rsplit(', ', 1))}.")
        self.allow = allow


class NotImplementedHere(Exception):
    """No path supports this method, or the transfer coding of the body is not supported."""


class VersionNotSupported(Exception):
    """The request uses an unsupported major version of HTTP."""


class TooLarge(Exception):
    """The body exceeds its size limit."""


class MisdirectedRequest(Exception):
    """The request is addressed to a host name that is not accepted."""

    def __init__(self) -> None:
        super().__init__(
            "The service does not accept the host name of this request; use localhost or 127.0.0.1, or start it "
            "with --hosts registry.local, for example."
        )


class HeadersTooLarge(Exception):
    """The request head exceeds its size limit."""


class UnsupportedMediaType(Exception):
    """The method does not accept the media type of the body; `named` lists the types that it accepts."""

    def __init__(self, method: str, detail: str, named: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.header = "Accept-Patch" if method == "PATCH" else "Accept"  # RFC 5789, 3.1; RFC 9110, 15.5.16
        self.named = ", ".join(named)
