"""The cycle of one request and its response, with a Tornado handler (through `tornado.httputil`) or without one.

The body is passed on as it arrives, at the handler's pace. `guidsvc.server.protocol.connection` handles the requests
before and after it.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

import structlog
from tornado.httputil import HTTPMessageDelegate, HTTPServerConnectionDelegate, RequestStartLine

from guidsvc.runtime.admission import Admission
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.server.protocol.request import RawRequest
from guidsvc.server.protocol.response_writer import ResponseSink, ResponseWriter
from guidsvc.server.protocol.state import DirectRequest

_log = structlog.get_logger(__name__)


class ConnectionControl(ResponseSink, Protocol):
    """The connection of the request."""

    def on_cycle_complete(self, *, last: bool) -> None:
        """Continue with the next request, or close if this was the last."""

    def resume_reading(self) -> None:
        """Resume reading: the handler accepts more."""

    def pause_reading(self) -> None:
        """Stop reading for a while: the client was rejected with Retry-After."""

    def failed(self) -> None:
        """Close the connection: the request cannot be answered."""

    def fault(self, error: Exception) -> None:
        """Handle an internal error: send 500 if the response has not begun, and close."""


class RequestCycle:
    """A request being answered: by `plain`, if given, without a handler."""

    __slots__ = (
        "_admission",
        "_delegate",
        "_errand",
        "_exchange",
        "_gate",
        "_host",
        "_plain",
        "_unprepared",
        "message",
    )

    def __init__(
        self, host: ConnectionControl, message: RawRequest, plain: DirectRequest | None, admission: Admission | None
    ) -> None:
        self._host: ConnectionControl | None = host  # until the cycle ends
        self._plain = plain  # until it is answered
        self._exchange: ResponseWriter | None = None
        self._delegate: HTTPMessageDelegate | None = None  # until the handler has the whole request
        self._gate: asyncio.Future[Any] | None = None  # done when the handler accepts more
        self._unprepared = False  # the handler is still in `prepare()`
        self._admission = None  # set if the handler needs a slot, which is acquired once the request is complete
        if admission is not None:
            self._admission, self._errand = admission, CancelScope()
        self.message = message

    @property
    def is_waiting(self) -> bool:
        """Whether the request waits for more data from the client."""
        return self._gate is None

    @property
    def begun(self) -> bool:
        """Whether part of the response was sent."""
        return self._exchange is not None and self._exchange.begun

    @property
    def is_open_ended(self) -> bool:
        """Whether part of the response was sent, and only the end of the connection ends it."""
        return self._exchange is not None and self._exchange.is_open_ended

    @property
    def last(self) -> bool:
        """Whether the connection closes after the response."""
        return self._exchange is not None and self._exchange.last

    def begin(self, app: HTTPServerConnectionDelegate) -> None:
        """Begin to answer. Raise HTTPInputError if Tornado rejects the request as malformed."""
        message, host = self.message, self._host
        if self._plain is not None or host is None:
            self.feed_body()
            return
        method, target = message.method.decode("latin-1"), message.target.decode("latin-1")
        self._exchange = ResponseWriter(host, method, message.version, last=message.last)
        delegate = app.start_request(host, self._exchange)
        token = None if self._admission is None else CURRENT.set(self._errand)
        gate = delegate.headers_received(RequestStartLine(method, target, message.version), message.fields())
        if message.has_body:
            self._delegate, self._unprepared = delegate, True
            self._wait_for(gate)
        else:
            self._finish(delegate)
        if token is not None:
            CURRENT.reset(token)

    def feed_body(self) -> None:
        """Pass the received body on, as far as the handler accepts it."""
        try:
            self._hand_on()
        except Exception as error:
            if self._host is None:
                raise
            self._host.fault(error)

    def _hand_on(self) -> None:
        message, plain = self.message, self._plain
        if plain is not None:
            if message.whole and self._gate is None:
                host, reply = self._host, plain.reject_if_overloaded()
                if reply is not None and host is not None:
                    self._plain = None
                    host.write(reply)
                    host.pause_reading()
                    host.on_cycle_complete(last=plain.last)
                    return
                self._gate = asyncio.ensure_future(self._do(plain))
                self._gate.add_done_callback(self._done)
            return
        while self._delegate is not None and self._gate is None:
            if message.chunks:
                gate = self._delegate.data_received(message.take())
                if gate is not None:
                    self._wait_for(gate)
            elif message.whole:
                delegate, self._delegate = self._delegate, None
                self._finish(delegate)
            else:
                self._ask_for_body()
                return

    def end(self) -> None:
        """End the cycle."""
        if self._admission is not None and self._errand.task is None:
            self._admission.release(self._errand)  # the handler did not use it
        self._host = self._exchange = self._delegate = self._gate = None

    def abandon(self) -> None:
        """End the cycle, and notify the handler that the client has disconnected."""
        exchange, delegate, plain, gate = self._exchange, self._delegate, self._plain, self._gate
        self.end()
        if plain is not None:
            plain.abandon()
        if exchange is not None:
            exchange.lost(tell=delegate is None)
        if delegate is not None and gate is not None and self._unprepared:  # notify it after `prepare()`
            gate.add_done_callback(lambda _: delegate.on_connection_close())
        elif delegate is not None:
            delegate.on_connection_close()

    def _finish(self, delegate: HTTPMessageDelegate) -> None:
        """Start the handler's method, with an admission slot if one is free."""
        if self._admission is not None and not self._errand.begun:
            self._admission.try_acquire(self._errand)
        delegate.finish()

    def _ask_for_body(self) -> None:
        """Send `100 Continue` if the client waits for it."""
        if self.message.waits and not self.message.total and not self.begun and self._host is not None:
            self.message.waits = False
            self._host.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _wait_for(self, gate: Awaitable[None] | None) -> None:
        """Continue when the handler is ready for more."""
        if gate is None:
            self.feed_body()
        else:
            self._gate = asyncio.ensure_future(gate)
            self._gate.add_done_callback(self._ready)

    def _ready(self, gate: asyncio.Future[Any]) -> None:
        failed = _has_failed(gate)
        if gate is not self._gate or self._host is None:
            return  # the cycle has ended
        host, self._gate, self._unprepared = self._host, None, False
        if failed:
            host.failed()
        else:
            self.feed_body()
            host.resume_reading()

    async def _do(self, plain: DirectRequest) -> None:
        """Answer on the fast path, without a handler."""
        reply = await plain.answer(b"".join(self.message.chunks))
        self._plain = None
        if self._host is not None:  # the client is still connected
            self._host.write(reply)
            self._host.on_cycle_complete(last=plain.last)

    def _done(self, doing: asyncio.Future[None]) -> None:
        if _has_failed(doing) and self._host is not None:
            self._host.failed()


def _has_failed(work: asyncio.Future[Any]) -> bool:
    """Whether the work failed. Log the error, which is unexpected: handlers catch their own."""
    error = None if work.cancelled() else work.exception()
    if error is not None:
        _log.error("fault of the service", exc_info=error)
    return error is not None
