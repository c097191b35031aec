"""The common part of both transports: address and key of the service, httpx2's errors, and the limit of responses."""

import os
import re
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from socket import gaierror
from typing import Any
from urllib.request import getproxies

import httpx2

from guidsvc_client.clock import clock
from guidsvc_client.errors import Disconnected, TimedOut, Unreachable
from guidsvc_client.protocol.call import Call, Reply
from guidsvc_client.protocol.retrying import Attempts, Policy
from guidsvc_client.version import __version__

MAX_REPLY_BYTES = 8 << 20
"""Twice the largest response of the service, the results of a batch. Decoded, it may take 25 times as much memory."""
EXAMPLE_URL = "http://127.0.0.1:8888"
MAX_PORT = 65_535
LATE = "no response in time; a change may have taken effect"
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_REASONS: Mapping[type[httpx2.RequestError], str] = {
    httpx2.PoolTimeout: "all connections of the client are in use",
    httpx2.ConnectTimeout: "no answer in time",
    httpx2.ConnectError: "the connection cannot be made",
    httpx2.RemoteProtocolError: "it closed the connection, or its response is not HTTP",
    httpx2.LocalProtocolError: "the request is not valid HTTP; check the characters of the key",
    httpx2.ProxyError: "the proxy did not pass the request on",
    httpx2.TooManyRedirects: "the responses redirect the request without end",
    httpx2.DecodingError: "the response cannot be decoded",
    httpx2.NetworkError: "it closed the connection",
}
"""What an error says if no error of the network or of TLS is behind it."""
_REASONS_OF_SYSTEM: Sequence[tuple[tuple[type[OSError], ...], str]] = (
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError), "it closed the connection"),
    ((ssl.SSLError,), "the TLS handshake failed; perhaps only one side uses TLS"),
    ((gaierror,), "its host name is not known"),
    ((ConnectionRefusedError,), "connection refused: nothing listens there"),
    ((ConnectionError,), "it closed the connection"),
)
_NO_ROUTE = {EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN}
_MAX_CAUSES = 10
_PROXIED = {"http", "https", "all"}
"""Kinds of URLs for which httpx2 uses a proxy that the environment names."""


@dataclass(frozen=True, slots=True)
class Service:
    """The address of the service, and the key to it, which no `repr` shows."""

    url: str
    key: str | None = field(repr=False)

    @classmethod
    def named(cls, url: str | None, key: str | None) -> "Service":
        """Return the service that the arguments name, or else GUIDSVC_URL and GUIDSVC_KEY. An empty key means none.

        Raise ValueError if there is no URL, or if it is not one of a service.
        """
        address = url or os.environ.get("GUIDSVC_URL")
        if not address:
            raise ValueError(f"the client has no URL; pass one, such as {EXAMPLE_URL}, or set GUIDSVC_URL")
        if not _is_address(address):
            raise ValueError(f"{'url' if url else 'GUIDSVC_URL'}: {_address_fault(address)}")
        return cls(address.rstrip("/"), os.environ.get("GUIDSVC_KEY") if key is None else key)

    @property
    def public_url(self) -> str:
        """The address without a password, for the links in errors."""
        return str(httpx2.URL(self.url).copy_with(userinfo=b"")) if "@" in self.url else self.url

    def request(self, attempts: Attempts[Any]) -> dict[str, Any]:
        """Begin an attempt, and return the arguments of its request."""
        call = attempts.call
        headers = {"User-Agent": f"guidsvc-client/{__version__}", "Accept-Encoding": "identity", **attempts.begin()}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        _inject_trace(headers)
        return {
            "method": call.method,
            "url": self.url + call.target,
            "headers": headers,
            "content": call.content,
            "timeout": timeout_of(attempts.policy, call),
        }


def _is_address(url: str) -> bool:
    """Return whether a URL is the address of a service, perhaps with a path before those of the service."""
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL:
        return False
    has_port = parts.port is None or 0 < parts.port <= MAX_PORT
    has_more = {" ", "?", "#"} & set(url)
    return parts.scheme in {"http", "https"} and bool(parts.host) and has_port and not has_more


def _address_fault(url: str) -> str:
    """Return the mistake in a URL, without any part that may be a password."""
    if url.startswith("gs_"):
        return "this is an API key, not a URL; pass it as key, or set GUIDSVC_KEY"
    hint = f"write one such as {EXAMPLE_URL}"
    if "://" not in url and "@" not in url and _is_address(f"http://{url}"):
        hint = f"did you mean http://{url}?"
    shown = re.sub(r"^.*@|(?<=[?#]).*$", "***", url, flags=re.DOTALL)
    return f"{shown!r} is not the URL of a service; {hint}"


def tls_context(url: str) -> ssl.SSLContext | bool:
    """Return what a client of this URL verifies certificates with: True for the authorities that httpx2 trusts.

    httpx2 loads these at once, which takes 30 ms of CPU. A client of an `http` URL makes no TLS connection, unless to a
    proxy, so it gets a context that trusts none.
    """
    uses_tls = httpx2.URL(url).scheme == "https" or not _PROXIED.isdisjoint(getproxies())
    return uses_tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def timeout_of(policy: Policy, call: Call[Any]) -> httpx2.Timeout:
    """Return the time limits of a call."""
    return httpx2.Timeout(policy.timeout_seconds + call.wait_seconds, connect=policy.connect_seconds)


@contextmanager
def own_errors(request_id: str) -> Generator[None]:
    """Within the block, raise the errors of this package instead of those of httpx2."""
    try:
        yield
    except _NOT_CONNECTED as error:
        raise Unreachable(f"no connection to the service: {_reason(error)}", request_id) from error
    except (httpx2.TimeoutException, TimeoutError) as error:
        raise TimedOut(LATE, request_id) from error
    except httpx2.RequestError as error:
        reason = f"the connection broke off: {_reason(error)}; a change may have taken effect"
        raise Disconnected(reason, request_id) from error


def _reason(error: httpx2.RequestError) -> str:
    """Return in plain words what an error of httpx2 says. It is the cause of the error that quotes this."""
    of_system = (_reason_of_system(each) for each in _causes(error))
    return next(filter(None, of_system), None) or next(
        (reason for kind, reason in _REASONS.items() if isinstance(error, kind)), "it failed"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, also those that a library suppresses."""
    for _ in range(_MAX_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _reason_of_system(error: BaseException) -> str | None:
    """Return what an error of the network or of TLS says."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid for this host: {error.verify_message}"
    if isinstance(error, OSError) and error.errno in _NO_ROUTE:
        return "this host has no route to it"
    return next((reason for kinds, reason in _REASONS_OF_SYSTEM if isinstance(error, kinds)), None)


class BoundedReply:
    """The parts of a response, joined up to a size, and up to a time of `clock`."""

    def __init__(self, response: httpx2.Response, url: str, ends_at: float) -> None:
        self._response, self._url, self._ends_at = response, url, ends_at
        self._content = bytearray()  # a list of small parts would take many times their size

    def add(self, part: bytes) -> None:
        """Add a part. Raise Disconnected if the response is too large, TimedOut if its time is over."""
        self._content += part
        if len(self._content) > MAX_REPLY_BYTES:
            raise Disconnected(f"the response has more than {MAX_REPLY_BYTES} bytes; a change may have taken effect")
        if clock() > self._ends_at:
            raise TimedOut(LATE)

    def reply(self) -> Reply:
        """Return the whole response."""
        headers: Mapping[str, str] = {name.lower(): value for name, value in self._response.headers.items()}
        return Reply(self._response.status_code, headers, bytes(self._content), self._url)


def trace_injector() -> Callable[[dict[str, str]], None]:
    """Return the function that adds `traceparent`, if the program uses OpenTelemetry."""
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.propagate") is None:
        return lambda _: None
    propagate = import_module("opentelemetry.propagate")
    return partial(propagate.inject)


_inject_trace = trace_injector()
