"""One client connection. Requests are answered one at a time, in order of arrival.

The connection neither awaits nor sets timers: the server periodically checks `is_overdue`.
"""

import asyncio

from httptools import HttpRequestParser
from tornado.httputil import HTTPInputError
from tornado.iostream import StreamClosedError

from guidsvc.errors import Overloaded
from guidsvc.runtime.admission import Admission
from guidsvc.server.protocol.cycle import RequestCycle
from guidsvc.server.protocol.parser import RequestParser
from guidsvc.server.protocol.request import RawHeaders, RawRequest, not_http, unquoted
from guidsvc.server.protocol.response_writer import closed_future
from guidsvc.server.protocol.send_buffer import SendBuffer
from guidsvc.server.protocol.state import DirectRequest, Peer, ServerState, has_sent_all, has_unread

MAX_RESPONSE_BYTES = 64 * 1024
"""Bytes of fast-path answers collected for pipelined requests. Beyond it, the next requests are queued for handlers."""
MAX_BODY_BUFFER_BYTES = 256 * 1024
"""Maximum bytes of a body buffered for its handler; beyond it, reading pauses."""
MAX_QUEUED = 16
"""Maximum queued requests per connection; bytes beyond them stay unparsed."""
LINGER_SECONDS = 2.0
"""After a rejection, data from the client is read and discarded this long, so that it can read the answer."""


class Connection(asyncio.Protocol):
    """A client connection. The methods are grouped by their caller."""

    __slots__ = (
        "_cycle",
        "_drain_waiter",
        "_has_eof",
        "_incoming_bytes",
        "_is_lingering",
        "_is_parsing_soon",
        "_is_reading_paused",
        "_is_throttled",
        "_parser",
        "_pending_error",
        "_queued",
        "_response_bytes",
        "_responses",
        "_send_buffer",
        "_serve_repeated_read",
        "_state",
        "_timeout_start",
        "_transport",
        "context",
    )
    context: Peer
    _transport: asyncio.Transport
    _outbox: SendBuffer

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._serve_repeated_read = None if state.fast_path is None else state.fast_path.serve_repeated_read
        self._parser = RequestParser(self, state.limits.head_bytes)
        # The current request, and those queued behind it
        self._cycle: RequestCycle | None = None
        self._queued: list[RawRequest] = []
        self._incoming_bytes = 0  # of unanswered requests, at the last count
        self._pending_error: Exception | None = None  # sent once all earlier requests are answered
        # The connection
        self._responses: list[bytes] = []  # fast-path answers to be sent
        self._response_bytes = 0  # of these answers
        self._drain_waiter: asyncio.Future[None] | None = None  # set while the client does not read fast enough
        self._is_reading_paused = False  # reading is paused
        self._is_throttled = False  # reading is paused by the ReadThrottle
        self._is_parsing_soon = False  # parsing goes on in the next turn of the event loop
        self._is_lingering = False  # input is discarded until the client closes
        self._has_eof = False  # the client has sent EOF
        self._timeout_start = state.tick  # start of the current time-out

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._state.connecting.pop(self, None)
        self._transport = transport  # type: ignore[assignment]  # TCP, TLS and Unix sockets all have both directions
        self.context = Peer(self._transport)
        self._send_buffer = SendBuffer(self._transport, self._state.budget, secure=self.context.secure)
        self._state.connections.add(self)
        self._send_buffer.open()

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        is_start, idle_since = parser.is_between_requests and not parser.is_finished, self._timeout_start
        if is_start:
            self._timeout_start = self._state.tick
            if self._cycle is None and self._serve_repeated_read is not None and self._drain_waiter is None:
                response = self._serve_repeated_read(data, self.context)
                if response is not None:
                    self._transport.write(response)
                    return
        count_before = parser.request_count
        if self._state.is_over_budget() and self._reject_over_share(len(data)):
            return
        parser.feed(data)
        if self._responses:
            is_single = is_start and parser.is_between_requests and parser.request_count == count_before + 1
            if is_single and self._state.fast_path is not None:
                self._state.fast_path.remember_request(data)
            self._flush()
        elif is_start and parser.is_between_requests and parser.request_count == count_before:
            self._timeout_start = idle_since  # empty lines are no request: the connection is still idle
        self.regulate()
        if self._incoming_bytes or self._cycle is not None or not parser.is_between_requests:
            self._count_incoming()

    def eof_received(self) -> bool:
        """Handle EOF. Return whether to stay open: complete requests are still answered, an incomplete one is not."""
        self._has_eof = True
        is_complete = self._cycle is not None and self._cycle.message is not self._parser.message
        return (is_complete or bool(self._queued)) and not self._is_lingering and self.context.protocol == "http"

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._state.connections.discard(self)
        self._state.paused_connections.discard(self)
        self._parser.close()
        self._send_buffer.end()
        self._queued.clear()
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None:
            waiter.set_exception(StreamClosedError())
            waiter.exception()  # mark it retrieved: nobody may be waiting
        self._abandon_cycle()
        self._state.incoming_bytes -= self._incoming_bytes
        self._incoming_bytes = 0

    def pause_writing(self) -> None:
        if self._drain_waiter is None:
            self._drain_waiter = asyncio.get_running_loop().create_future()
        self._send_buffer.pause()

    def resume_writing(self) -> None:
        self._send_buffer.resume()
        if self._send_buffer.is_paused:
            return
        waiter, self._drain_waiter = self._drain_waiter, None
        self._timeout_start = self._state.tick
        if waiter is not None:
            waiter.set_result(None)
        if self._cycle is None:
            self._start_next()
        self.regulate()

    # Called by the parser

    def on_request_head(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser
    ) -> RawRequest | None:
        direct_request: DirectRequest | None = None
        state = self._state
        is_idle = self._cycle is None and self._drain_waiter is None
        if is_idle and state.fast_path is not None and self._response_bytes < MAX_RESPONSE_BYTES:
            result = state.fast_path.dispatch(method, target, headers, parser, self.context)
            if isinstance(result, bytes):
                self._responses.append(result)
                self._response_bytes += len(result)
                return None
            direct_request = result
        version = "HTTP/1.0" if parser.get_http_version() == "1.0" else "HTTP/1.1"
        last = not parser.should_keep_alive() or method == b"CONNECT"
        message = RawRequest(method, target, version, headers, last=last)
        message.validate()
        message.timeout_seconds = state.limits.body_seconds
        self._timeout_start = state.tick
        if is_idle:
            self._start(message, direct_request)
        else:
            self._queued.append(message)
        return message

    def has_room(self) -> bool:
        return len(self._queued) < MAX_QUEUED

    def resume_parsing_soon(self) -> None:
        if not self._is_parsing_soon:
            self._is_parsing_soon = True
            asyncio.get_running_loop().call_soon(self._resume_parsing)

    def on_body(self, message: RawRequest) -> None:
        if self._cycle is not None and message is self._cycle.message:
            self._cycle.feed_body()

    on_message_complete = on_body

    def on_protocol_error(self, error: Exception, broken: RawRequest | None) -> None:
        cycle = self._cycle
        if cycle is not None and broken is cycle.message:
            # Parts of a stream may have been executed: a response that says otherwise would be wrong.
            if cycle.has_begun or broken.is_stream:
                self.on_cycle_failed()
                return
            self._abandon_cycle()
        elif broken is not None:
            self._queued.remove(broken)
        if self._cycle is not None or self._queued:  # these are complete, and are answered first
            self._pending_error = error
        else:
            self._send_error(error)

    # Called by the RequestCycle: ConnectionControl

    def write(self, data: bytes) -> asyncio.Future[None]:
        if self._send_buffer.is_closing:
            return closed_future()
        if self._responses:
            self._flush()
        self._send_buffer.write(data)
        return self._state.done_future if self._drain_waiter is None else self._drain_waiter

    def on_response_complete(self) -> None:
        if self._cycle is not None:
            self.on_cycle_complete(last=self._cycle.last)

    def on_cycle_complete(self, *, last: bool) -> None:
        is_complete = self.is_request_complete
        if self._cycle is not None:
            self._cycle.end()
            self._cycle = None
            if self._incoming_bytes:
                self._count_incoming()
        self._timeout_start = self._state.tick
        if self._send_buffer.is_closing:
            return
        if not is_complete:
            self._linger()
        elif last:
            self.close()
        elif self._drain_waiter is None:  # else `resume_writing` does, once the client has read enough
            self._start_next()
        self.regulate()

    def resume_reading(self) -> None:
        self._is_throttled = False
        self._timeout_start = self._state.tick
        self.regulate()

    def pause_reading(self) -> None:
        self._is_throttled = True
        self._state.read_throttle.add(self)

    def on_cycle_failed(self) -> None:
        is_open_ended = self._is_open_ended
        self._abandon_cycle()
        if is_open_ended:
            self._send_buffer.reset()
        else:
            self.close()

    def on_cycle_error(self, error: Exception) -> None:
        if self._cycle is not None and self._cycle.has_begun:
            self._state.hooks.log_failure(error)
            self.on_cycle_failed()
            return
        self._abandon_cycle()
        self._send_error(error)

    def close(self) -> None:  # by the server too
        self._parser.is_finished = True
        if self._is_open_ended:  # a regular close would make the answer look complete
            self._send_buffer.reset()
            return
        if self._responses:
            self._flush()
        self._send_buffer.close()

    @property
    def is_request_complete(self) -> bool:
        return self._cycle is not None and self._cycle.message.is_complete

    def set_body_timeout(self, seconds: float | None) -> None:
        if self._cycle is not None:
            self._cycle.message.timeout_seconds = seconds

    # Called by the server

    def regulate(self) -> None:
        message = self._parser.message
        should_pause = (
            self._drain_waiter is not None or self._is_throttled or bool(self._queued) or self._is_parsing_soon
        )
        if (
            not should_pause
            and message is not None
            and message.buffered_bytes > MAX_BODY_BUFFER_BYTES
            and not self._transport.is_closing()
        ):
            should_pause = not has_sent_all(self._transport)  # else its EOF must be read, which follows all other data
        if should_pause != self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = should_pause
            (self._state.paused_connections.add if should_pause else self._state.paused_connections.discard)(self)
            (self._transport.pause_reading if should_pause else self._transport.resume_reading)()

    def _admission_for(self, message: RawRequest, direct_request: DirectRequest | None) -> Admission | None:
        """Return the Admission of a handler's request, or None; the fast path acquires its slot itself."""
        state = self._state
        return state.admission if direct_request is None and state.hooks.requires_admission(message.target) else None

    def is_overdue(self, now: float) -> bool:
        limits = self._state.limits
        if self._drain_waiter is not None:
            return self._send_buffer.is_too_slow(now, limits.write_seconds, limits.write_bytes_per_second)
        seconds = self._timeout_seconds()
        return seconds is not None and now - self._timeout_start > seconds

    def retire(self, idle_before: float) -> bool:
        sending = not self._send_buffer.is_empty
        if self._send_buffer.is_closing:
            return sending
        has_requests = self._cycle is not None or bool(self._queued) or not self._parser.is_between_requests
        if sending or has_requests or self._timeout_start > idle_before or has_unread(self._transport):
            return True
        self.close()
        return False

    def expire(self) -> None:
        is_idle = (
            self._cycle is None
            and self._parser.is_between_requests
            and self._drain_waiter is None
            and not self._is_lingering
        )
        if not (is_idle and has_unread(self._transport)):
            self.abort()

    def abort(self) -> None:
        if self._is_open_ended:
            self._send_buffer.reset()
        else:
            self._send_buffer.abort()

    @property
    def _is_open_ended(self) -> bool:
        return self._cycle is not None and self._cycle.is_open_ended

    def _timeout_seconds(self) -> float | None:
        limits, cycle = self._state.limits, self._cycle
        if self._is_lingering:
            return LINGER_SECONDS
        if cycle is not None:
            is_receiving = cycle.message is self._parser.message
            return cycle.message.timeout_seconds if is_receiving and cycle.is_waiting else None
        return limits.idle_seconds if self._parser.is_between_requests else limits.head_seconds

    # Answering

    def _start(self, message: RawRequest, direct_request: DirectRequest | None = None) -> None:
        """Begin to answer a request."""
        cycle = self._cycle = RequestCycle(self, message, direct_request, self._admission_for(message, direct_request))
        try:
            cycle.begin(self._state.app)
        except HTTPInputError as error:
            cycle.end()
            self._cycle = None
            self._parser.is_finished = True
            self._send_error(not_http(unquoted(str(error))))
        except Exception as error:  # noqa: BLE001  # logged; without a response the client would wait forever
            self.on_cycle_error(error)

    def _start_next(self) -> None:
        """Answer the next queued request, send a pending error, or close after EOF."""
        if self._queued and not (self._has_eof and not self._queued[0].is_complete):
            self._start(self._queued.pop(0))
            self._parser.resume()
            if self._responses:
                self._flush()
        elif self._pending_error is not None:
            self._send_error(self._pending_error)
        elif self._has_eof:
            self.close()

    def _resume_parsing(self) -> None:
        """Parse what was left in the last turn of the event loop."""
        self._is_parsing_soon = False
        self._parser.resume()
        if self._responses:
            self._flush()
        self.regulate()
        if not self._transport.is_closing():
            self._count_incoming()

    def _count_incoming(self) -> None:
        """Update the number of bytes held for unanswered requests."""
        cycle = self._cycle
        messages = self._queued if cycle is None else [cycle.message, *self._queued]
        total_bytes = self._parser.buffered_bytes + sum(message.memory_bytes for message in messages)
        self._state.incoming_bytes += total_bytes - self._incoming_bytes
        self._incoming_bytes = total_bytes

    def _reject_over_share(self, size: int) -> bool:
        """Reject `size` more bytes if the connection would exceed its share; return whether it did."""
        if self._parser.is_finished or self._incoming_bytes + size <= self._state.share_bytes():
            return False
        if self._drain_waiter is not None:
            self.abort()  # it does not read its answers either
        else:
            self._parser.reject(Overloaded("too much is being received"))
            self._count_incoming()
        return True

    def _flush(self) -> None:
        responses, self._responses, self._response_bytes = self._responses, [], 0
        self._transport.write(responses[0] if len(responses) == 1 else b"".join(responses))

    def _abandon_cycle(self) -> None:
        cycle, self._cycle = self._cycle, None
        if cycle is not None:
            cycle.abandon()

    def _send_error(self, error: Exception) -> None:
        self._pending_error = None
        self.write(self._state.hooks.reject_request(error, secure=self.context.secure))
        self._linger()

    def _linger(self) -> None:
        """Close after the client has read the answer: a client cut off while sending may never see it."""
        self._parser.is_finished = self._is_lingering = True
        self._queued.clear()
        self._count_incoming()
        self._timeout_start = self._state.tick
        if self._has_eof or not self._transport.can_write_eof():
            self.close()
        elif not self._send_buffer.is_closing:
            self._transport.write_eof()
