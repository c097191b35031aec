"""The base of all handlers: the life of a request, and errors as problem documents.

Tornado's own errors become problem documents too.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from http.client import METHOD_NOT_ALLOWED
from typing import Any, ClassVar

from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, RequestHandler, stream_request_body

from guidsvc.api.base.output import OutputHandler
from guidsvc.api.contract import problems
from guidsvc.api.contract.headers import ACCEPT_PATCH, ALLOW, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution.pipeline import ABORTED, LOGGED_PATH
from guidsvc.api.execution.responses import log_failure, set_default_headers
from guidsvc.api.html.error_page import error_page
from guidsvc.errors import ClientDisconnected, ShuttingDown
from guidsvc.http import constants
from guidsvc.http.constants import METHODS
from guidsvc.http.errors import MethodNotAllowed, UnknownMethod
from guidsvc.http.headers.request_id import request_id
from guidsvc.monitoring.logs.access_log import Failure, loggable_method
from guidsvc.server.abort import break_off, linger_after
from guidsvc.telemetry import tracing
from guidsvc.telemetry.tracing import RequestTrace

KNOWN_METHODS = frozenset({*METHODS, "CONNECT", "TRACE", "QUERY"})
"""Methods of RFC 9110 and RFC 5789, and QUERY (in OpenAPI): 405 where not served. Others: 501 (RFC 9110, 9.1)."""


@stream_request_body
class Handler(OutputHandler):
    """The base of every handler: the life of a request."""

    label: ClassVar[str]
    """The OpenAPI tag of the path."""
    in_path: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """JSON Schema of each path parameter, by name."""
    method_hints: ClassVar[Mapping[str, str]] = {}
    """Hints for methods that the path does not support, by method."""

    request_id: str
    failure: Failure | None = None
    """Why the request failed, for the access log."""
    is_abandoned = False
    """Whether the client disconnected before the response, and the service cancelled the request."""
    is_aborted = False
    """Whether the response was broken off, or the service ended before it; the access log has a line that says so."""

    def clear(self) -> None:
        """Reset the response; Tornado calls this for each request, and again before it writes an error.

        Replaces Tornado's method, which formats the date each time and checks headers that need no check.
        """
        if not hasattr(self, "request_id"):
            self.request_id = request_id(self.request.headers.get("X-Request-Id", ""))
            self.context.trusted_proxies.apply(self.request)
            address = str(self.request.remote_ip)
            self.trace = (
                RequestTrace(self.request_id, address) if self.context.tracer is None else self._begin_trace(address)
            )
            self._received = bytearray()
            self._received_bytes = 0
        headers = self._headers = HTTPHeaders()
        cors = self.context.cors
        set_default_headers(headers, self.request_id, secure=self.request.protocol == "https", varies=cors.any)
        if cors.any:
            for name, value in cors.headers_for(self.request.headers.get("Origin")).items():
                headers[name] = value
        self._write_buffer: list[bytes] = []
        self.set_status(HTTPStatus.OK)

    def _begin_trace(self, address: str) -> RequestTrace:
        is_secure = self.request.protocol == "https"
        return self.pipeline.begin_trace(self.request_id, address, self.request.headers, secure=is_secure)

    def prepare(self) -> Awaitable[None] | None:
        """Begin a request. A rejection here also closes the connection, because the body is unread."""
        tracing.CURRENT.set(self.trace)  # Tornado has made a task for this request
        self.pipeline.in_flight.add(self)
        self.pipeline.require_open()
        if self.request.method not in {"GET", "HEAD"}:
            self.check_declared_size()
        return self.authenticate()

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "asyncio.Future[None]":
        """Finish the request. During shutdown, close the connection too if the header can still be sent."""
        self.add_extra_headers()
        if (self._is_last or self.pipeline.in_flight.draining) and not self._headers_written:
            self.close_after()  # again, as an error has cleared the head
        if not self.request._body_future.done() and self._has_body:  # noqa: SLF001  # Tornado has no public attribute
            linger_after(self.request.connection, is_last=self._is_last)
        if not self._is_last:
            return super().finish(chunk)
        connection: Any = self.request.connection
        future = super().finish(chunk)
        future.add_done_callback(lambda _: connection.close())
        return future

    def on_finish(self) -> None:
        self.pipeline.in_flight.discard(self)
        self._received.clear()  # reference cycles keep the handler alive until the garbage collector runs

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._is_disconnected = True
        if self._cancel_scope is not None:
            self._cancel_scope.cancel(is_disconnected=True)
        if self._streaming is not None:
            self._streaming.cancel()
        self.pipeline.in_flight.discard(self)
        if self.pipeline.in_flight.closed and not self._finished:
            self._record_abort(ShuttingDown(ABORTED))

    def on_grace_end(self) -> None:
        """Reject the request if the service ends before its body has arrived."""
        if not (self._finished or self._headers_written or self.request._body_future.done()):  # noqa: SLF001  # see `finish`
            error = ShuttingDown("the service ended before the body of the request had arrived")
            self.send_error(exc_info=(ShuttingDown, error, None))

    @operation(
        "optionsHere",
        "What can be done here",
        ResponseSpec(204, "The methods are listed in `Allow`.", headers=(*always(ALLOW), ACCEPT_PATCH)),
    )
    def options(self, *_: str) -> None:
        """Report the supported methods and the media types of a PATCH; for browsers, also the cross-origin requests."""
        self.set_header("Allow", self.allowed_methods())
        if "PATCH" in self.allowed_methods():
            self.set_header("Accept-Patch", ", ".join(constants.PATCHES))
        cors = self.context.cors
        headers = self.request.headers
        preflight = headers.get("Origin"), headers.get("Access-Control-Request-Method")
        for name, value in cors.preflight(*preflight, self.allowed_methods()).items():
            self.set_header(name, value)
        self.clear_header("Content-Type")
        self.respond(204)

    @classmethod
    def methods(cls) -> list[str]:
        """List the methods that this handler serves."""
        base = RequestHandler
        return [name for name in METHODS if getattr(cls, name.lower()) is not getattr(base, name.lower())]

    def allowed_methods(self) -> str:
        """Return the value of the Allow header."""
        return ", ".join(self.methods())

    def compute_etag(self) -> None:
        """Set no ETag; handlers set their own. Tornado would hash the body."""

    def check_etag_header(self) -> bool:
        """Return False: handlers compare If-None-Match themselves. Tornado's method reads a list of any length."""
        return False

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002  # Tornado's signature
        """Decode a path parameter. Invalid UTF-8 is replaced, so that it is reported as an invalid GUID."""
        return value.decode("utf-8", "replace")

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:  # noqa: ARG002  # Tornado's signature
        """Finish the request with the problem document of an error; abort a response that has begun."""
        error = self._translate(kwargs.get("exc_info", (None, None, None))[1])
        if self._headers_written:  # a stream failed: the client sees it by the missing end
            break_off(self.request.connection)  # type: ignore[arg-type]  # there is one, until the request is over
            self.pipeline.in_flight.discard(self)
            self._record_abort(error)
            return
        super().send_error(problems.problem_of(error).status, exc_info=(type(error), error, error.__traceback__))

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ARG002  # Tornado's signature
        error = kwargs["exc_info"][1]
        self.failure = self.pipeline.describe(error, self.session)
        self.is_abandoned = isinstance(error, ClientDisconnected)
        self.set_header("Content-Type", problems.CONTENT_TYPE)
        for name, value in problems.headers_of(error).items():
            self.set_header(name, value)
        if self.prefers_page():
            path, uri = self.request.path, self.request.uri
            self.respond_page(error_page(error, self.request_id, path, f"{self.base_url}{uri}"))
        else:
            self.finish(problems.render(error, self.request_id, base=self.context.public_url) + b"\n")

    def log_exception(self, *failure: Any) -> None:
        """Log a failure, given by Tornado as its class, itself, and its traceback."""
        _, value, _ = failure
        if value is not None:
            log_failure(self._translate(value), self.request_id)

    @property
    def base_url(self) -> str:
        """The address of the service to show to people: from the settings, or else from the request."""
        return self.context.public_url or f"{self.request.protocol}://{self.request.host}"

    def _record_abort(self, error: BaseException) -> None:
        """Log that the response is missing or incomplete, once."""
        if self.is_aborted:
            return
        self.is_aborted = True
        request = self.request
        self.pipeline.record_abort(
            loggable_method(str(request.method)),
            request.path[:LOGGED_PATH],
            self.get_status() if self._headers_written else 0,
            max(0.0, request.request_time()),
            self.request_id,
            str(request.remote_ip),
            self.pipeline.describe(error, self.session),
            self.trace.trace_id,
        )

    def _translate(self, error: BaseException | None) -> BaseException:
        """Return the service's own error for Tornado's 405 and for a missing exception; else the error itself."""
        if isinstance(error, HTTPError) and error.status_code == METHOD_NOT_ALLOWED:
            method = str(self.request.method)
            if method not in KNOWN_METHODS:
                return UnknownMethod(method, self.allowed_methods())
            return MethodNotAllowed(method, self.allowed_methods(), self.method_hints.get(method, ""))
        if error is None and self._is_disconnected:  # its task was cancelled
            return ClientDisconnected("its client has gone")
        return error or RuntimeError("an error without an exception")
