"""Requests to the service on this host, at the address that its settings name."""

import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from socket import AF_UNIX, SOCK_STREAM, create_connection, gaierror, socket
from typing import Any, NamedTuple

from pydantic_core import from_json

from guidsvc.bounded_file import read_file
from guidsvc.config import Settings
from guidsvc.system_errors import NetworkFault, network_fault, plain_reason
from guidsvc.time_limit import TimeLimitExceeded, within

TIMEOUT_SECONDS = 3.0
"""Timeout of the connection, and then of each read."""
TOTAL_SECONDS = 5.0
"""Timeout of a whole request."""
HOST = "localhost"
"""A host name that every listener accepts, even without access control."""
_PARTS = ("store", "cache", "clock", "damage")
_OF_TIME = {NetworkFault.EXPIRED, NetworkFault.NOT_YET_VALID}
_OTHER_CERTIFICATE = "name the --tls-cert with which the service was started"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104  # not used to bind a socket


class Request(NamedTuple):
    """A request. One with a key is sent over TLS only to the holder of the certificate that the settings name."""

    method: str
    path: str
    key: str = ""
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Response(NamedTuple):
    """The status of a response, and the start of its body."""

    status: int
    body: bytes


def get(settings: Settings, path: str, *, max_bytes: int, key: str = "") -> Response:
    """Return the response to a GET. Raise OSError or HTTPException if there is none in time."""
    return send(settings, Request("GET", path, key), max_bytes=max_bytes)


def send(settings: Settings, request: Request, *, max_bytes: int, seconds: float = TOTAL_SECONDS) -> Response:
    """Return the response to a request. Raise OSError or HTTPException if there is none in time.

    The time limit covers the whole request, because the server may send single bytes.
    """
    return within(seconds, lambda: _exchange(settings, request, max_bytes))


def _exchange(settings: Settings, request: Request, max_bytes: int) -> Response:
    headers = {"Host": HOST, "Connection": "close", **request.headers}
    if request.key:
        headers["Authorization"] = f"Bearer {request.key}"
    with _connect(settings, is_verified=bool(request.key)) as sock:
        connection = HTTPConnection(HOST)
        connection.sock = sock
        connection.request(request.method, request.path, request.body or None, headers)
        response = connection.getresponse()
        return Response(response.status, response.read(max_bytes))


def _connect(settings: Settings, *, is_verified: bool) -> socket:
    if settings.unix_socket is not None:
        connection = socket(AF_UNIX, SOCK_STREAM)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(settings.unix_socket)
    else:
        connection = create_connection((address(settings), settings.port), TIMEOUT_SECONDS)
    if settings.tls_cert is None:
        return connection
    return _tls(settings.tls_cert if is_verified else None).wrap_socket(connection)


def _tls(certificate: str | None) -> ssl.SSLContext:
    """Return a context that accepts only this certificate, or any if it is None; it may name another host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if certificate is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=read_file(certificate).decode("ascii", "ignore"))
    return context


def members_of(text: str | bytes) -> dict[str, Any]:
    """Return the members of a JSON object; none if the text is none."""
    try:
        members = from_json(text)
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def is_readiness(report: Mapping[str, object]) -> bool:
    """Return whether these members are those of a successful /readyz. Another program may answer 200 to any path."""
    return report.get("ready") is True and report.get("status") in {"ready", "degraded"} and "store" in report


def states(report: Mapping[str, object]) -> str:
    """Return the states of the parts that /readyz reports in words, for example `store up, cache down`."""
    return ", ".join(f"{part} {report[part]}" for part in _PARTS if part in report)


def address(settings: Settings) -> str:
    """Return the address to connect to."""
    return _ANY_ADDRESS.get(settings.host, settings.host)


def where(settings: Settings, path: str) -> str:
    """Return the URL of a path, with the Unix socket if there is one."""
    scheme = "http" if settings.tls_cert is None else "https"
    if settings.unix_socket is not None:
        return f"{scheme}://{HOST}{path} at {settings.unix_socket}"
    name = address(settings)
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{settings.port}{path}"


def reason(error: OSError | HTTPException) -> str:
    """Return why there was no response."""
    if isinstance(error, TimeLimitExceeded):
        return f"no complete response within {error.seconds:g} s"
    if isinstance(error, TimeoutError):
        return f"no response within {TIMEOUT_SECONDS:g} s"
    if isinstance(error, RemoteDisconnected):
        return "it closed the connection without an HTTP response"
    if isinstance(error, HTTPException):
        return "what answers there does not speak HTTP"
    return plain_reason(error)


def is_unsent(error: OSError | HTTPException) -> bool:
    """Return whether a request that failed with this error was certainly not sent."""
    return isinstance(error, (ConnectionRefusedError, FileNotFoundError, gaierror, ssl.SSLCertVerificationError))


def hint(settings: Settings, error: OSError | HTTPException) -> str:
    """Return the remedy: if nothing listens there, or if only one side may be using TLS."""
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return f"; start the service, or name its {'--port' if settings.unix_socket is None else '--unix-socket'}"
    if isinstance(error, gaierror):
        return "; correct --host"
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = network_fault(error)
        return f"; {fault.remedy if fault in _OF_TIME else _OTHER_CERTIFICATE}"
    if settings.tls_cert is not None and isinstance(error, (ssl.SSLError, ConnectionResetError, TimeoutError)):
        return "; if the service does not speak TLS, leave out --tls-cert and --tls-key"
    if settings.tls_cert is None and isinstance(error, (ConnectionResetError, HTTPException)):
        return "; if the service speaks TLS, give its --tls-cert and --tls-key"
    return ""
