"""The cycle of one request and its response, with a Tornado handler (through `tornado.httputil`) or without one.

The body is passed on as it arrives, at the handler's pace. `guidsvc.server.protocol.connection` handles the requests
before and after it.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, Protocol

import structlog
from tornado.httputil import HTTPMessageDelegate, HTTPServerConnectionDelegate, RequestStartLine

from guidsvc.runtime.admission import Admission
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.server.protocol.request import RawRequest, without_query
from guidsvc.server.protocol.response_writer import ResponseSink, ResponseWriter
from guidsvc.server.protocol.state import DirectRequest

FAULT = "fault of the service"
"""The log event of an unexpected error: handlers and the fast path answer their own."""
_log = structlog.get_logger(__name__)


class ConnectionControl(ResponseSink, Protocol):
    """The connection of the request."""

    def on_cycle_complete(self, *, last: bool) -> None:
        """Continue with the next request, or close if this was the last."""

    def resume_reading(self) -> None:
        """Resume reading: the handler accepts more."""

    def throttle_reading(self) -> None:
        """Stop reading for a while if the client, which was rejected with Retry-After, is alone on the connection."""

    def on_cycle_failed(self) -> None:
        """Close the connection: the request cannot be answered."""

    def on_cycle_error(self, error: Exception) -> None:
        """Handle an internal error: send 500 if the response has not begun, and close."""


class RequestCycle:
    """A request being answered: by `direct_request`, if given, without a handler."""

    __slots__ = (
        "_admission",
        "_cancel_scope",
        "_connection",
        "_delegate",
        "_direct_request",
        "_handler_future",
        "_is_preparing",
        "_writer",
        "message",
    )

    def __init__(
        self,
        connection: ConnectionControl,
        message: RawRequest,
        direct_request: DirectRequest | None,
        admission: Admission | None,
    ) -> None:
        self._connection: ConnectionControl | None = connection  # until the cycle ends
        self._direct_request = direct_request  # until it is answered
        self._writer: ResponseWriter | None = None
        self._delegate: HTTPMessageDelegate | None = None  # until the handler has the whole request
        self._handler_future: asyncio.Future[Any] | None = None  # done when the handler accepts more
        self._is_preparing = False  # the handler is still in `prepare()`
        self._admission = None  # set if the handler needs a slot, which is acquired once the request is complete
        if admission is not None:
            self._admission, self._cancel_scope = admission, CancelScope()
        self.message = message

    @property
    def is_waiting(self) -> bool:
        """Whether the request waits for more data from the client."""
        return self._handler_future is None

    @property
    def has_begun(self) -> bool:
        """Whether part of the response was sent."""
        return self._writer is not None and self._writer.has_begun

    @property
    def is_open_ended(self) -> bool:
        """Whether part of the response was sent, and only the end of the connection ends it."""
        return self._writer is not None and self._writer.is_open_ended

    @property
    def last(self) -> bool:
        """Whether the connection closes after the response."""
        return self._writer is not None and self._writer.last

    def leave(self) -> bool:
        """Close the connection after the response, and say so in it unless its head was sent.

        A handler that waits for its client, or for events, ends its response now. Return whether the client loses
        nothing without this response.
        """
        self.message.last = True
        if self._direct_request is not None:
            self._direct_request.last = True
        return self._writer is not None and self._writer.leave()

    def begin(self, app: HTTPServerConnectionDelegate) -> None:
        """Begin to answer. Raise HTTPInputError if Tornado rejects the request as malformed."""
        message, connection = self.message, self._connection
        if self._direct_request is not None or connection is None:
            if message.is_complete:
                self.feed_body()
            return
        method, target = message.method.decode("latin-1"), message.target.decode("latin-1")
        if method == "OPTIONS":
            target = without_query(target)
        self._writer = ResponseWriter(connection, method, message.version, last=message.last)
        delegate = app.start_request(connection, self._writer)
        token = None if self._admission is None else CURRENT.set(self._cancel_scope)
        future = delegate.headers_received(RequestStartLine(method, target, message.version), message.fields())
        if message.has_body:
            self._delegate, self._is_preparing = delegate, True
            self._continue_after(future)
        else:
            self._finish(delegate)
        if token is not None:
            CURRENT.reset(token)

    def feed_body(self) -> None:
        """Pass the received body on, as far as the handler accepts it."""
        try:
            if self._direct_request is None:
                self._pass_body_on()
            elif self.message.is_complete and self._handler_future is None:
                self._answer_directly(self._direct_request)
        except Exception as error:
            if self._connection is None:
                raise
            self._connection.on_cycle_error(error)

    def reject_unreceived(self) -> bool:
        """Answer a request without a handler whose body is incomplete: the service ends. Return whether it is one."""
        if self._direct_request is None or self.message.is_complete or self._handler_future is not None:
            return False
        self._direct_request.last = True
        self._handler_future = asyncio.get_running_loop().create_task(self._respond_directly(self._direct_request))
        return True

    def _answer_directly(self, direct_request: DirectRequest) -> None:
        connection, response = self._connection, direct_request.reject_if_overloaded()
        if response is not None and connection is not None:
            self._direct_request = None
            connection.write(response)
            connection.throttle_reading()
            connection.on_cycle_complete(last=direct_request.last)
            return
        loop = asyncio.get_running_loop()
        if direct_request.answer_soon(partial(self._on_answer, direct_request)):
            self._handler_future = loop.create_future()  # nothing waits for it; it shows that the answer is awaited
        else:
            self._handler_future = loop.create_task(self._respond_directly(direct_request))

    def _on_answer(self, direct_request: DirectRequest, response: bytes | None) -> None:
        """Send the answer, or answer in a task if there is none; do nothing if the client has disconnected."""
        connection = self._connection
        if connection is None:
            return
        if response is None:
            self._handler_future = asyncio.get_running_loop().create_task(self._respond_directly(direct_request))
            return
        self._direct_request = None
        connection.write(response)
        connection.on_cycle_complete(last=direct_request.last)

    def _pass_body_on(self) -> None:
        message = self.message
        while self._delegate is not None and self._handler_future is None:
            if message.chunks:
                future = self._delegate.data_received(message.take())
                if future is not None:
                    self._continue_after(future)
            elif message.is_complete:
                delegate, self._delegate = self._delegate, None
                self._finish(delegate)
            else:
                self._send_continue()
                return

    def end(self) -> None:
        """End the cycle."""
        if self._admission is not None and self._cancel_scope.task is None:
            self._admission.release(self._cancel_scope)  # the handler did not use it
        self._connection = self._writer = self._delegate = self._handler_future = None

    def abandon(self) -> None:
        """End the cycle, and notify the handler that the client has disconnected."""
        writer, delegate, direct_request, future = (
            self._writer,
            self._delegate,
            self._direct_request,
            self._handler_future,
        )
        self.end()
        if direct_request is not None:
            direct_request.abandon()
        if writer is not None:
            writer.on_disconnect(notify=delegate is None)
        if delegate is not None and future is not None and self._is_preparing:  # notify it after `prepare()`
            future.add_done_callback(lambda _: delegate.on_connection_close())
        elif delegate is not None:
            delegate.on_connection_close()

    def _finish(self, delegate: HTTPMessageDelegate) -> None:
        """Start the handler's method, with an admission slot if one is free."""
        if self._admission is not None and not self._cancel_scope.has_started:
            self._admission.try_acquire(self._cancel_scope)
        delegate.finish()

    def _send_continue(self) -> None:
        """Send `100 Continue` if the client waits for it."""
        if (
            self.message.expects_continue
            and not self.message.total_bytes
            and not self.has_begun
            and self._connection is not None
        ):
            self.message.expects_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _continue_after(self, future: Awaitable[None] | None) -> None:
        """Continue when the handler is ready for more."""
        if future is None:
            self.feed_body()
        else:
            self._handler_future = asyncio.ensure_future(future)
            self._handler_future.add_done_callback(self._on_handler_ready)

    def _on_handler_ready(self, future: asyncio.Future[Any]) -> None:
        has_failed = _has_failed(future)
        if future is not self._handler_future or self._connection is None:
            return  # the cycle has ended
        connection, self._handler_future, self._is_preparing = self._connection, None, False
        if has_failed:
            connection.on_cycle_failed()
        else:
            self.feed_body()
            connection.resume_reading()

    async def _respond_directly(self, direct_request: DirectRequest) -> None:
        """Answer on the fast path, without a handler."""
        try:
            response = await direct_request.respond(b"".join(self.message.chunks))
            self._direct_request = None
            if self._connection is not None:  # the client is still connected
                self._connection.write(response)
                self._connection.on_cycle_complete(last=direct_request.last)
        except Exception as error:  # noqa: BLE001  # logged; without a response the client would wait forever
            _log.error(FAULT, exc_info=error)
            if self._connection is not None:
                self._connection.on_cycle_failed()


def _has_failed(future: asyncio.Future[Any]) -> bool:
    """Whether the work failed. Log the error, which is unexpected: handlers catch their own."""
    error = None if future.cancelled() else future.exception()
    if error is not None:
        _log.error(FAULT, exc_info=error)
    return error is not None
