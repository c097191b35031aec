"""HTTP errors that the domain does not know."""

import re

from guidsvc.http.constants import METHODS
from guidsvc.http.credentials import CREDENTIAL
from guidsvc.similarity import nearest

MAX_METHOD_CHARACTERS = 32
"""Maximum length of a method that is compared with the known ones."""
RENEWAL_HINT = "To renew the GUID, POST to /guid/{guid}/renewal."
"""The hint for a POST to a GUID."""
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}|\[[0-9A-Fa-f:.]{2,45}\]")
"""A host name or address that a message may repeat."""
_PORT = re.compile(r":[0-9]{0,5}\Z")


class NoSuchPath(Exception):
    """The path is not served."""


class MethodNotAllowed(Exception):
    """The path does not support this method; `allow` lists the methods that it supports.

    `hint` is a sentence about what the client may have meant.
    """

    def __init__(self, method: str, allow: str, hint: str = "") -> None:
        detail = f"{method} is not supported here; use {_choice(allow)}."
        super().__init__(f"{detail} {hint}".rstrip())
        self.allow = allow


class NotImplementedHere(Exception):
    """No path supports this method, or the transfer coding of the body is not supported."""


class UnknownMethod(NotImplementedHere):
    """No path supports a method of this name; `allow` lists the methods that this path supports.

    The message never repeats the name, which may be the rest of a body: it names the method that was probably meant.
    """

    def __init__(self, method: str, allow: str) -> None:
        if method.upper() in METHODS:
            detail = f"The names of methods are in upper case: send {method.upper()} (curl: -X {method.upper()})."
        else:
            meant = nearest(method[:MAX_METHOD_CHARACTERS].upper(), METHODS)
            question = "" if meant is None else f" Did you mean {meant}?"
            detail = f"No path supports this method.{question} This path supports {_choice(allow)}."
        super().__init__(detail)


class VersionNotSupported(Exception):
    """The request uses an unsupported major `version` of HTTP."""

    def __init__(self, version: str) -> None:
        super().__init__(f"HTTP/{version} is not supported; send HTTP/1.1.")


class TooLarge(Exception):
    """The body exceeds its size limit."""


class MisdirectedRequest(Exception):
    """The request is addressed to a `host` (with or without a port) that is not accepted."""

    def __init__(self, host: str) -> None:
        name = _PORT.sub("", host).removesuffix(".")
        if _HOST_NAME.fullmatch(name) is None or CREDENTIAL.search(name) is not None:
            reason = "not shown: it is not a plain host name" if host else "it is empty"
            shown, example = f"of this request ({reason})", "registry.example"
        else:
            shown = example = name
        super().__init__(
            f"The service does not accept the host name {shown}. On its own machine, use localhost or 127.0.0.1; to "
            f"accept another name, start the service with --hosts {example} (GUIDSVC_HOSTS)."
        )


class TooEarly(Exception):
    """A proxy forwards a change from TLS early data, before the handshake is complete (RFC 8470)."""

    def __init__(self) -> None:
        super().__init__(
            "The request came as TLS early data, which can be replayed. Nothing was done; send it again once the "
            "handshake is complete."
        )


class HeadersTooLarge(Exception):
    """The request head exceeds its limits."""

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        super().__init__(
            f"The request line and its headers may have at most {max_bytes} bytes and {max_headers} headers."
        )


class UnsupportedMediaType(Exception):
    """The method does not accept the media type of the body; `named` lists the types that it accepts."""

    def __init__(self, method: str, detail: str, named: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.header = "Accept-Patch" if method == "PATCH" else "Accept"  # RFC 5789, 3.1; RFC 9110, 15.5.16
        self.named = ", ".join(named)


def _choice(allow: str) -> str:
    """Return a list of methods, separated by commas, as it is written in a sentence: `GET, HEAD or PUT`."""
    return " or ".join(allow.rsplit(", ", 1))
