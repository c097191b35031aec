"""What every handler does: a request id, the body, replies, and every error as a problem.

Tornado's own errors come out as problems too, and a handler below says only what is particular to it.
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
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.diagnostics import DiagnosticHeaders, source_of
from guidsvc.http.headers.request_id import request_id
from guidsvc.http.response import Response
from guidsvc.runtime import cancel_scope as errand
from guidsvc.runtime.admission import Admission, Slot
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.in_flight import InFlightRequests
from guidsvc.server.protocol.abort import break_off
from guidsvc.services import write_attempt as attempt
from guidsvc.services.idempotency import Brief, Idempotency, RequestBody
from guidsvc.telemetry import tracing
from guidsvc.telemetry.tracing import RequestTrace

DISCARD_BYTES = 16 * 1024 * 1024
"""So much of a body that is too large is read and thrown away, so that the client reads our answer; then we hang up."""

KNOWN_METHODS = frozenset({*METHODS, "CONNECT", "TRACE", "QUERY"})
"""Those of RFC 9110 and RFC 5789, and QUERY, which OpenAPI knows: 405 where not served. Others: 501 (RFC 9110, 9.1)."""
_log = structlog.get_logger(__name__)
_Model = TypeVar("_Model", bound=BaseModel)


@stream_request_body
class Handler(AuthenticatedHandler):
    """The base of every handler. The body is gathered as it comes, and judged when it is asked for."""

    max_bytes = body.MAX_BYTES
    """The size of a body; up to DISCARD_BYTES one that is larger is read, and thrown away."""
    label: ClassVar[str]
    """Under which heading the path is told of."""
    in_path: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What stands in the path, as JSON Schema, by name."""

    request_id: str
    trace: RequestTrace
    _is_last = False  # of its connection, whose end is that of the reply too: HTTP/1.0 knows no other for a stream
    _errand: CancelScope | None = None  # what is being done
    _gone = False  # the client is
    _streaming: asyncio.Task[None] | None = None  # what is to end when the client goes away

    def clear(self) -> None:
        """Begin a reply; Tornado calls this for each request, and again before it writes an error.

        In place of Tornado's own, which formats the date each time, and checks headers that need no check.
        """
        if not hasattr(self, "request_id"):
            self.request_id = request_id(self.request.headers.get("X-Request-Id", ""))
            self.application.settings["forwarded"].apply(self.request)
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
        cors: Cors = self.application.settings["cors"]
        if cors.any:
            headers["Vary"] = "Origin"
            for name, value in cors.reply(self.request.headers.get("Origin")).items():
                headers[name] = value
        self._write_buffer: list[bytes] = []
        self.set_status(HTTPStatus.OK)

    def prepare(self) -> Awaitable[None] | None:
        """Begin a request. What is refused here ends the connection too: its body has not been read."""
        tracing.CURRENT.set(self.trace)  # Tornado has made a task for this request
        self.under_way.add(self)
        if self.under_way.closed:
            raise StoreUnavailable("the service has ended")
        if self.request.method not in {"GET", "HEAD"}:
            self._judge_size()
        return self.authenticate()

    def _judge_size(self) -> None:
        declared = self.request.headers.get("Content-Length", "")  # one that is no number the server refuses by itself
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
        """End the request; and the connection, if the service is about to end and the client can still be told."""
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
        self._received.clear()  # cycles of references keep the handler until the garbage collector runs

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
        cors: Cors = self.application.settings["cors"]
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
        """List the methods that this handler serves, as in the header Allow."""
        return ", ".join(self.methods())

    def read_query(self, model: type[_Model]) -> _Model:
        """Return the model that the parameters of the query make."""
        return query.parse(self.request.query_arguments, model)

    def read_conditions(self) -> Conditions:
        """Return the preconditions of the request."""
        return conditions.parse(self.request.headers)

    def read_body(self, model: type[_Model]) -> _Model:
        """Return the model that the body holds, where the path names no GUID."""
        return body.read(str(self.request.method), self.request.headers, self.received, model, (constants.JSON,), None)

    def check_type(self, *named: str) -> None:
        """Refuse a body that is of none of these types."""
        headers = self.request.headers
        content_type, encoding = headers.get("Content-Type"), headers.get("Content-Encoding")
        body.check_type(str(self.request.method), content_type, encoding, named)

    def received(self) -> bytes:
        """Return the body as it came."""
        if self._received_bytes > self.max_bytes:
            raise self._too_large()
        return bytes(self._received)

    def reply(self, status: int, content: bytes | dict[str, Any] | None = None) -> None:
        """End the request with this status and, where there is one, this JSON body, with a line end for terminals."""
        self.set_status(status)
        if content is not None:
            self.write((to_json(content) if isinstance(content, dict) else content) + b"\n")
        self.finish()

    def send(self, answer: Response) -> None:
        """End the request with an answer."""
        for name, value in answer.headers.items():
            self.set_header(name, value)
        if answer.body is None and answer.status != NOT_MODIFIED:
            self.clear_header("Content-Type")
        self.reply(answer.status, None if answer.body is None else answer.body.encode())

    async def send_idempotent(
        self,
        idempotency: Idempotency,
        work: RequestBody,
        *,
        repeatable: bool = True,
        brief: Brief | None = None,
        needs_receipt: bool = True,
    ) -> None:
        """End the request with the answer that `work` gives, or gave when the request came before under its key.

        What needs no receipt takes a key, and does not look at it. `brief` is kept of an answer that is too large.
        """
        request = parse_key(self.request, bytes(self._received), caller=self.caller, repeatable=repeatable)
        if request is None or not needs_receipt:
            self.send(await work(None))
            return
        answer, replayed = await idempotency.once(request, work, brief)
        if replayed:
            self.set_header(REPLAYED.name, "true")
        self.send(answer)

    async def stream(self, parts: AsyncGenerator[bytes], *, is_confirmed: bool = True) -> None:
        """End the request with these parts, no faster than the client takes them; if it goes away, so do they.

        Before each part the caller's authority is confirmed, unless told otherwise: when it has ended the stream
        breaks off. The head goes out with the first, so an error that comes before it is told as a problem. A HEAD asks
        for none.
        """
        if self.request.version == "HTTP/1.0":
            self._is_last = True
        self._add_diagnostic_headers()
        if self.request.method == "HEAD":
            with suppress(StreamClosedError):  # which on_connection_close is told of
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
                del part  # the connection holds it until the client has taken it
                try:
                    await self.flush()
                except StreamClosedError:  # which on_connection_close is told of
                    return
        self._streaming = None
        self.finish()

    def slot(self, *, patient: bool = False) -> Slot:
        """Return a place among what is done at a time, for the request, or for a part of it that takes its own time."""
        taken = errand.CURRENT.get()  # by its connection, or before
        self._errand = CancelScope() if taken is None or taken.begun else taken
        self._errand.is_persistent = attempt.CURRENT.get() is not None  # what has begun under a receipt goes on
        self._errand.left = self._errand.gone = self._gone and not self._errand.is_persistent
        admission: Admission = self.application.settings["admission"]
        return admission.slot(self._errand, self.queue_name, patient=patient)

    @property
    def queue_name(self) -> str:
        """The name under which the request waits its turn: its owner, or its address where access control is off."""
        return str(self.request.remote_ip) if self.login is None else self.caller.owner

    def vary(self, names: str) -> None:
        """Say that the reply depends on these headers of the request, beside those on which all do."""
        always = self._headers.get("Vary")
        self.set_header("Vary", names if always is None else f"{names}, {always}")

    def preferences(self) -> dict[str, str]:
        """Return what the client would like, by name."""
        return preferences.parse(self.request.headers.get("Prefer"))

    def compute_etag(self) -> None:
        """Leave a reply without an ETag unless it is given one: Tornado would hash the body."""

    def check_etag_header(self) -> bool:
        """Return False: handlers compare If-None-Match themselves. Tornado's own reads a list of any length."""
        return False

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002  # Tornado's signature
        """Decode a part of the path; one that is no UTF-8 is told of as what it is: not a GUID."""
        return value.decode("utf-8", "replace")

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:  # noqa: ARG002  # Tornado's signature
        """End the request with the problem that an error is to the client."""
        error = self._translated(kwargs.get("exc_info", (None, None, None))[1])
        if self._headers_written:  # a stream broke: without its end the client knows that it did
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
        """Log a failure, as Tornado hands it over: its class, itself, and its traceback."""
        _, value, _ = failure
        if value is not None:
            replies.log_failure(self._translated(value), self.request_id)

    @property
    def source(self) -> str | None:
        """Where the record came from that answers this request, if it is a read."""
        return source_of(str(self.request.method), self.get_status(), self.trace)

    @property
    def is_cut_off(self) -> bool:
        """Whether the end of the service has closed the connection before the request was answered."""
        return self._gone and self.under_way.closed

    @property
    def under_way(self) -> InFlightRequests:
        """The requests of the whole service that are under way."""
        under_way: InFlightRequests = self.application.settings["under_way"]
        return under_way

    def _add_diagnostic_headers(self) -> None:
        """Tell of limits, and of the origin of the answer, where that is wanted."""
        if self._headers_written:
            return
        origin: DiagnosticHeaders = self.application.settings["origin"]
        told = {} if self.login is None else self.login.ration.headers()
        if origin:
            self.trace.is_opaque |= self.get_status() == NOT_FOUND
            told |= origin.headers(self.source, self.trace, max(0.0, self.request.request_time()))
        for name, value in told.items():
            self.set_header(name, value)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"A body is at most {self.max_bytes} bytes.")

    def _translated(self, error: BaseException | None) -> BaseException:
        """Turn the one error that Tornado raises by itself, for a method that is not served, into ours."""
        if isinstance(error, HTTPError) and error.status_code == METHOD_NOT_ALLOWED:
            method = str(self.request.method)
            if method not in KNOWN_METHODS:
                return NotImplementedHere(f"No path serves this method; this one serves {self.allowed_methods()}.")
            return MethodNotAllowed(method, self.allowed_methods())
        if error is None and self._gone:  # its task was cancelled
            return ClientDisconnected("its client has gone")
        return error or RuntimeError("an error without an exception")


class ServerWideOptions(Handler):
    """`OPTIONS *`: whatever is asked of the service as a whole (RFC 9110, 9.3.7)."""

    def allowed_methods(self) -> str:
        """List the methods that are served anywhere."""
        return ", ".join(METHODS)


class Misdirected(Handler):
    """Whatever is asked under a host name that is not accepted."""

    def get(self, *_: str) -> None:
        """Refuse it."""
        raise MisdirectedRequest

    head = post = put = patch = delete = options = get

    def _translated(self, error: BaseException | None) -> BaseException:
        """Say the same to a method that nobody knows."""
        return error if isinstance(error, MisdirectedRequest) else MisdirectedRequest()


class UnknownPath(Handler):
    """Whatever is asked of a path that names nothing."""

    def get(self, *_: str) -> None:
        """Say that there is nothing."""
        raise NoSuchPath("Nothing is served at this path.")

    head = post = put = patch = delete = options = get

    def _translated(self, error: BaseException | None) -> BaseException:
        """Say the same to a method that nobody knows."""
        return error if isinstance(error, NoSuchPath) else NoSuchPath("Nothing is served at this path.")
