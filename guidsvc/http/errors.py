"""Errors of HTTP itself, which the domain does not know."""


class NoSuchPath(Exception):
    """The path names nothing that is served."""


class MethodNotAllowed(Exception):
    """The path is served, but not by this method; `allow` are those that it is."""

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"{method} is not served here; {allow} are.")
        self.allow = allow


class NotImplementedHere(Exception):
    """No path serves this method, or no body is read in this transfer coding."""


class VersionNotSupported(Exception):
    """The request is of another major version of HTTP."""


class TooLarge(Exception):
    """The body is larger than a record can be."""


class MisdirectedRequest(Exception):
    """The request is addressed to a host name under which the service does not answer."""

    def __init__(self) -> None:
        super().__init__(
            "The service does not answer under the host name of this request: use localhost or 127.0.0.1, or have the "
            "name added to its setting hosts."
        )


class HeadersTooLarge(Exception):
    """The head of the request is larger than any that makes sense here."""


class UnsupportedMediaType(Exception):
    """The body is of a type that this method does not read; `named` are those that it does."""

    def __init__(self, method: str, detail: str, named: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.header = "Accept-Patch" if method == "PATCH" else "Accept"  # RFC 5789, 3.1; RFC 9110, 15.5.16
        self.named = ", ".join(named)
