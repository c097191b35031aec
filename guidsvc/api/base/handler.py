"""The base of all handlers: request id, body, responses, streaming, and errors as problem documents.

Tornado's own errors become problem documents too.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing, suppress
from http import HTTPStatus
from http.client import METHOD_NOT_ALLOWED, NOT_FOUND, NOT_MODIFIED
from typing import Any, ClassVar, TypeVar

import structlog
from pydantic import BaseModel
from pydantic_core import to_json
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from guidsvc.api.base.authentication import AuthenticatedHandler
from guidsvc.api.contract import problems
from guidsvc.api.contract.headers import ACCEPT_PATCH, ALLOW, REPLAYED, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution import responses as replies
from guidsvc.api.parsing import body, query
from guidsvc.api.parsing import conditional as conditions
from guidsvc.api.parsing.idempotency_key import parse as parse_key
from guidsvc.domain.preconditions import Conditions
from guidsvc.errors import ClientDisconnected, StoreUnavailable
from guidsvc.http import constants
from guidsvc.http.constants import METHODS
from guidsvc.http.dates import http_date
from guidsvc.http.errors import MethodNotAllowed, MisdirectedRequest, NoSuchPath, NotImplementedHere, TooLarge
from guidsvc.http.headers import prefer as preferences
from guidsvc.http.headers.diagnostics import source_of
from guidsvc.http.headers.request_id import request_id
from guidsvc.http.response import Response
from guidsvc.runtime import cancel_scope as errand
from guidsvc.runtime.admission import Slot
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.in_flight import InFlightRequests
from guidsvc.server.protocol.abort import break_off
from guidsvc.services import write_attempt as attempt
from guidsvc.services.idempotency import Brief, RequestBody
from guidsvc.telemetry import tracing
from guidsvc.telemetry.tracing import RequestTrace

DISCARD_BYTES = 16 * 1024 * 1024
"""Bytes of an oversized body that are read and discarded, so that the client reads the answer before the close."""

KNOWN_METHODS = frozenset({*METHODS, "CONNECT", "TRACE", "QUERY"})
"""Methods of RFC 9110 and RFC 5789, and QUERY (in OpenAPI): 405 where not served. Others: 501 (RFC 9110, 9.1)."""
_log = structlog.get_logger(__name__)
_Model = TypeVar("_Model", bound=BaseModel)


@stream_request_body
class Handler(AuthenticatedHandler):
    """The base of every handler. It buffers the body, and checks it when the handler reads it."""

    max_bytes = body.MAX_BYTES
    """Maximum size of a body. A larger one is read and discarded up to DISCARD_BYTES."""
    label: ClassVar[str]
    """The OpenAPI tag of the path."""
    in_path: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """JSON Schema of each path parameter, by name."""

    request_id: str
    trace: RequestTrace
    _is_last = False  # the end of the connection ends the response: HTTP/1.0 has no other way to end a stream
    _errand: CancelScope | None = None  # of the work in progress
    _gone = False  # the client has disconnected
    _streaming: asyncio.Task[None] | None = None  # cancelled when the client disconnects

    def clear(self) -> None:
        """Reset the response; Tornado calls this for each request, and again before it writes an error.

        Replaces Tornado's method, which formats the date each time and checks headers that need no check.
        """
        if not hasattr(self, "request_id"):
            self.request_id = request_id(self.request.headers.get("X-Request-Id", ""))
            self.context.trusted_proxies.apply(self.request)
            self.trace = RequestTrace(self.request_id, str(self.request.remote_ip))
            self._received = bytearray()
            self._received_bytes = 0
        headers = self._headers = HTTPHeaders()
        headers["Server"] = replies.SERVER
        headers["X-Content-Type-Options"] = replies.NOSNIFF
        headers["X-Frame-Options"] = replies.NO_FRAMES
        headers["Content-Type"] = constants.JSON
        headers["Date"] = http_date()
        headers["Cache-Control"] = "no-store"
        headers["X-Request-Id"] = self.request_id
        if self.request.protocol == "https":
            headers["Strict-Transport-Security"] = replies.STRICT
        cors = self.context.cors
        if cors.any:
            headers["Vary"] = "Origin"
            for name, value in cors.reply(self.request.headers.get("Origin")).items():
                headers[name] = value
        self._write_buffer: list[bytes] = []
        self.set_status(HTTPStatus.OK)

    def prepare(self) -> Awaitable[None] | None:
        """Begin a request. A rejection here also closes the connection, because the body is unread."""
        tracing.CURRENT.set(self.trace)  # Tornado has made a task for this request
        self.under_way.add(self)
        if self.under_way.closed:
            raise StoreUnavailable("the service has ended")
        if self.request.method not in {"GET", "HEAD"}:
            self._judge_size()
        return self.authenticate()

    def _judge_size(self) -> None:
        declared = self.request.headers.get("Content-Length", "")  # the server rejects one that is not a number
        waits = self.request.headers.get("Expect", "").lower() == "100-continue"
        most = self.max_bytes if waits else max(DISCARD_BYTES, self.max_bytes)
        if declared.isdecimal() and (len(declared) > len(str(most)) or int(declared) > most):
            raise self._too_large()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._received_bytes += len(chunk)
        if self._received_bytes <= self.max_bytes:
            self._received += chunk
        elif self._received_bytes > DISCARD_BYTES and not self._finished:
            self.send_error(exc_info=(TooLarge, self._too_large(), None))
        return None

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "asyncio.Future[None]":
        """Finish the request. During shutdown, close the connection too if the header can still be sent."""
        self._add_diagnostic_headers()
        ends = self.under_way.draining and not self._headers_written
        if not ends and not self._is_last:
            return super().finish(chunk)
        connection: Any = self.request.connection
        self.set_header("Connection", "close")
        sent = super().finish(chunk)
        sent.add_done_callback(lambda _: connection.close())
        return sent

    def on_finish(self) -> None:
        self.under_way.discard(self)
        self._received.clear()  # reference cycles keep the handler alive until the garbage collector runs

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._gone = True
        if self._errand is not None:
            self._errand.cancel(gone=True)
        if self._streaming is not None:
            self._streaming.cancel()
        self.under_way.discard(self)

    @operation(
        "optionsHere",
        "What can be done here",
        ResponseSpec(204, "The methods are listed in `Allow`.", headers=(*always(ALLOW), ACCEPT_PATCH)),
    )
    def options(self, *_: str) -> None:
        """Say which methods are served here, and what a PATCH can be; to a browser, what a page may ask."""
        self.set_header("Allow", self.allowed_methods())
        if "PATCH" in self.allowed_methods():
            self.set_header("Accept-Patch", ", ".join(constants.PATCHES))
        cors = self.context.cors
        given = self.request.headers
        asked = given.get("Origin"), given.get("Access-Control-Request-Method")
        for name, value in cors.preflight(*asked, self.allowed_methods()).items():
            self.set_header(name, value)
        self.clear_header("Content-Type")
        self.reply(204)

    @classmethod
    def methods(cls) -> list[str]:
        """List the methods that this handler serves."""
        base = RequestHandler
        return [name for name in METHODS if getattr(cls, name.lower()) is not getattr(base, name.lower())]

    def allowed_methods(self) -> str:
        """Return the value of the Allow header."""
        return ", ".join(self.methods())

    def read_query(self, model: type[_Model]) -> _Model:
        """Return the query parameters as a model."""
        return query.parse(self.request.query_arguments, model)

    def read_conditions(self) -> Conditions:
        """Return the preconditions of the request."""
        return conditions.parse(self.request.headers)

    def read_body(self, model: type[_Model]) -> _Model:
        """Return the JSON body as a model, for paths without a GUID."""
        return body.read(str(self.request.method), self.request.headers, self.received, model, (constants.JSON,), None)

    def check_type(self, *named: str) -> None:
        """Reject a body whose media type is not one of these."""
        headers = self.request.headers
        content_type, encoding = headers.get("Content-Type"), headers.get("Content-Encoding")
        body.check_type(str(self.request.method), content_type, encoding, named)

    def received(self) -> bytes:
        """Return the raw body. Raise TooLarge if it exceeds `max_bytes`."""
        if self._received_bytes > self.max_bytes:
            raise self._too_large()
        return bytes(self._received)

    def reply(self, status: int, content: bytes | dict[str, Any] | None = None) -> None:
        """Finish the request with a status and an optional JSON body, followed by a newline for terminals."""
        self.set_status(status)
        if content is not None:
            self.write((to_json(content) if isinstance(content, dict) else content) + b"\n")
        self.finish()

    def send(self, answer: Response) -> None:
        """Finish the request with a response."""
        for name, value in answer.headers.items():
            self.set_header(name, value)
        if answer.body is None and answer.status != NOT_MODIFIED:
            self.clear_header("Content-Type")
        self.reply(answer.status, None if answer.body is None else answer.body.encode())

    async def send_idempotent(
        self,
        work: RequestBody,
        *,
        repeatable: bool = True,
        brief: Brief | None = None,
        needs_receipt: bool = True,
    ) -> None:
        """Finish the request with the response of `work`, or with the stored one if its key was used before.

        A request that needs no receipt accepts a key and ignores it. `brief` makes the form in which a response too
        large to store is stored.
        """
        request = parse_key(self.request, bytes(self._received), caller=self.caller, repeatable=repeatable)
        if request is None or not needs_receipt:
            self.send(await work(None))
            return
        answer, replayed = await self.context.idempotency.once(request, work, brief)
        if replayed:
            self.set_header(REPLAYED.name, "true")
        self.send(answer)

    async def stream(self, parts: AsyncGenerator[bytes], *, is_confirmed: bool = True) -> None:
        """Finish the request with these parts, at the client's pace; stop if the client disconnects.

        Unless `is_confirmed` is False, the session is confirmed before each part; if it has ended, the stream aborts.
        The head goes out with the first part, so an earlier error becomes a problem document. A HEAD takes no part.
        """
        if self.request.version == "HTTP/1.0":
            self._is_last = True
        self._add_diagnostic_headers()
        if self.request.method == "HEAD":
            with suppress(StreamClosedError):  # on_connection_close handles it
                await self.flush()
                self.finish()
            return
        self._streaming = asyncio.current_task()
        first = True
        async with aclosing(parts):
            while True:
                if is_confirmed:
                    await self.confirm()
                async with self.slot(patient=not first):
                    part = await anext(parts, None)
                first = False
                if part is None:
                    break
                self.write(part)
                del part  # the connection keeps it until it is sent
                try:
                    await self.flush()
                except StreamClosedError:  # on_connection_close handles it
                    return
        self._streaming = None
        self.finish()

    def slot(self, *, patient: bool = False) -> Slot:
        """Return an admission slot for the request, or for one part of a long request."""
        taken = errand.CURRENT.get()  # by the connection, or by an earlier call
        self._errand = CancelScope() if taken is None or taken.begun else taken
        self._errand.is_persistent = attempt.CURRENT.get() is not None  # work under a receipt continues
        self._errand.left = self._errand.gone = self._gone and not self._errand.is_persistent
        return self.context.admission.slot(self._errand, self.queue_name, patient=patient)

    @property
    def queue_name(self) -> str:
        """The admission queue of the request: the caller's owner, or its address where access control is off."""
        return str(self.request.remote_ip) if self.login is None else self.caller.owner

    def vary(self, names: str) -> None:
        """Add request headers to Vary, beside those that every response has."""
        always = self._headers.get("Vary")
        self.set_header("Vary", names if always is None else f"{names}, {always}")

    def preferences(self) -> dict[str, str]:
        """Return the client's preferences (Prefer) by name."""
        return preferences.parse(self.request.headers.get("Prefer"))

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
        error = self._translated(kwargs.get("exc_info", (None, None, None))[1])
        if self._headers_written:  # a stream failed: the client sees it by the missing end
            break_off(self.request.connection)  # type: ignore[arg-type]  # there is one, until the request is over
            self.under_way.discard(self)
            return
        super().send_error(problems.problem_of(error).status, exc_info=(type(error), error, error.__traceback__))

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ARG002  # Tornado's signature
        error = kwargs["exc_info"][1]
        self.set_header("Content-Type", problems.CONTENT_TYPE)
        for name, value in problems.headers_of(error).items():
            self.set_header(name, value)
        self.finish(problems.render(error, self.request_id) + b"\n")

    def log_exception(self, *failure: Any) -> None:
        """Log a failure, given by Tornado as its class, itself, and its traceback."""
        _, value, _ = failure
        if value is not None:
            replies.log_failure(self._translated(value), self.request_id)

    @property
    def source(self) -> str | None:
        """Where a read's record came from, or None."""
        return source_of(str(self.request.method), self.get_status(), self.trace)

    @property
    def is_cut_off(self) -> bool:
        """Whether shutdown closed the connection before the response."""
        return self._gone and self.under_way.closed

    @property
    def under_way(self) -> InFlightRequests:
        """All requests in flight in this process."""
        return self.context.in_flight

    def _add_diagnostic_headers(self) -> None:
        """Add the rate limit headers, and the diagnostic headers if enabled."""
        if self._headers_written:
            return
        origin = self.context.diagnostics
        told = {} if self.login is None else self.login.ration.headers()
        if origin:
            self.trace.is_opaque |= self.get_status() == NOT_FOUND
            told |= origin.headers(self.source, self.trace, max(0.0, self.request.request_time()))
        for name, value in told.items():
            self.set_header(name, value)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"A body is at most {self.max_bytes} bytes.")

    def _translated(self, error: BaseException | None) -> BaseException:
        """Return the service's own error for Tornado's 405 and for a missing exception; else the error itself."""
        if isinstance(error, HTTPError) and error.status_code == METHOD_NOT_ALLOWED:
            method = str(self.request.method)
            if method not in KNOWN_METHODS:
                return NotImplementedHere(f"No path serves this method; this one serves {self.allowed_methods()}.")
            return MethodNotAllowed(method, self.allowed_methods())
        if error is None and self._gone:  # its task was cancelled
            return ClientDisconnected("its client has gone")
        return error or RuntimeError("an error without an exception")


class ServerWideOptions(Handler):
    """`OPTIONS *`: a request for the service as a whole (RFC 9110, 9.3.7)."""

    def allowed_methods(self) -> str:
        """Return the Allow header of all methods that any path serves."""
        return ", ".join(METHODS)


class Misdirected(Handler):
    """Any request under a host name that is not accepted."""

    def get(self, *_: str) -> None:
        """Refuse it."""
        raise MisdirectedRequest

    head = post = put = patch = delete = options = get

    def _translated(self, error: BaseException | None) -> BaseException:
        """Return MisdirectedRequest for unknown methods too."""
        return error if isinstance(error, MisdirectedRequest) else MisdirectedRequest()


class UnknownPath(Handler):
    """Any request for an unknown path."""

    def get(self, *_: str) -> None:
        """Say that there is nothing."""
        raise NoSuchPath("Nothing is served at this path.")

    head = post = put = patch = delete = options = get

    def _translated(self, error: BaseException | None) -> BaseException:
        """Return NoSuchPath for unknown methods too."""
        return error if isinstance(error, NoSuchPath) else NoSuchPath("Nothing is served at this path.")
