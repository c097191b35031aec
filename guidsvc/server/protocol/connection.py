"""One client connection. Requests are answered one at a time, in order of arrival.

The connection neither awaits nor sets timers: its server manages it by the methods of `BaseConnection`.
"""

import asyncio

from httptools import HttpRequestParser
from tornado.httputil import HTTPInputError
from tornado.iostream import StreamClosedError

from guidsvc.errors import Overloaded
from guidsvc.http.headers.connection import has_close
from guidsvc.runtime.admission import Admission
from guidsvc.server.client_networks import ClientNetwork
from guidsvc.server.protocol.base_connection import MAX_RESPONSE_BYTES, TOO_MUCH, BaseConnection, do_nothing
from guidsvc.server.protocol.cycle import RequestCycle
from guidsvc.server.protocol.parser import RequestParser
from guidsvc.server.protocol.request import RawHeaders, RawRequest, RejectedRequest, not_http, unquoted
from guidsvc.server.protocol.response_writer import closed_future
from guidsvc.server.protocol.send_buffer import SendBuffer
from guidsvc.server.protocol.state import DirectRequest, Peer, ServerState

MAX_QUEUED = 16
"""Maximum queued requests per connection; bytes beyond them stay unparsed.

Over the budget for all connections, it is those of one slice of the parser.
"""


class Connection(BaseConnection):
    """A client connection that answers requests. The methods are grouped by their caller."""

    __slots__ = ("_pending_rejection",)

    def __init__(self, state: ServerState, network: ClientNetwork) -> None:
        super().__init__(state, network)
        self._serve_repeated_read = state.serve_repeated_read
        self._parser = RequestParser(self, state.limits.head_bytes)
        self._pending_rejection: RejectedRequest | None = None  # sent once all earlier requests are answered

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # TCP, TLS and Unix sockets all have both directions
        self.context = Peer(self._transport)
        self._send_buffer = SendBuffer(
            self._transport, self._state.budget, secure=self.context.secure, network=self.network.name
        )
        self._send_buffer.open()
        if not self._state.table.open(self):
            self._parser.is_finished = True  # data may still arrive
            self.abort()

    def data_received(self, data: bytes) -> None:  # each call that it is spared is an answer sooner
        parser = self._parser
        is_start, idle_since = parser.is_between_requests and not parser.is_finished, self._timeout_start
        if is_start:
            self._timeout_start = self._state.tick
            if self._cycle is None and self._serve_repeated_read is not None and self._drain_waiter is None:
                response = self._serve_repeated_read(data, self.context)
                if response is not None:
                    self._transport.write(response)
                    return
        count_before, was_answering = parser.request_count, self._cycle is not None
        if (self._is_lingering or self._state.is_over_budget()) and self._refuse_input(len(data)):
            return
        parser.feed(data)
        if self._responses:
            is_single = is_start and parser.is_between_requests and parser.request_count == count_before + 1
            fast_path = self._state.fast_path
            if is_single and fast_path is not None and fast_path.remember_request(data):
                self._serve_repeated_read = self._state.serve_repeated
            self._flush()
        elif is_start and parser.is_between_requests and parser.request_count == count_before:
            self._timeout_start = idle_since  # empty lines are no request: the connection is still idle
        elif is_start and not was_answering and parser.is_between_requests and parser.request_count == count_before + 1:
            self._remember_renewal(data)
        self.regulate()
        if self._incoming_bytes or self._is_parsing_soon or self._cycle is not None or not parser.is_between_requests:
            self._count_incoming()

    def eof_received(self) -> bool:
        """Handle EOF. Return whether to stay open: complete requests are still answered, an incomplete one is not."""
        cycle, self._has_eof = self._cycle, True
        if cycle is not None and cycle is self._cycle_until_eof:
            return False
        is_complete = cycle is not None and cycle.message is not self._parser.message
        return (is_complete or bool(self._queued)) and not self._is_lingering and self.context.protocol == "http"

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._state.table.end(self)
        self._parser.close()
        self.on_reading_resumed = do_nothing  # it may refer back to this object
        self._send_buffer.end()
        self._queued.clear()
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(StreamClosedError())
            waiter.exception()  # mark it retrieved: nobody may be waiting
        self._abandon_cycle()
        self._state.incoming_bytes -= self._incoming_bytes
        self.network.incoming_bytes -= self._incoming_bytes
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
        if waiter is not None and not waiter.done():  # a response past its time limit has cancelled it
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
        if version == "HTTP/1.0" and not last:  # llhttp ignores `close` here if there is `keep-alive`, too
            last = any(has_close(value.decode("latin-1")) for name, value in headers if name.lower() == b"connection")
        message = RawRequest(method, target, version, headers, last=last or self._is_leaving)
        message.validate()
        if state.incoming_bytes > state.limits.incoming_bytes and self._exceeds_share(message):
            raise Overloaded(TOO_MUCH)
        message.timeout_seconds = state.limits.body_seconds
        self._timeout_start = state.tick
        if is_idle:
            self._start(message, direct_request)
        else:
            self._queued.append(message)
        return message

    def has_room(self) -> bool:
        return not self._queued or (len(self._queued) < MAX_QUEUED and not self._state.is_over_budget())

    def resume_parsing_soon(self) -> None:
        if not self._is_parsing_soon:
            self._is_parsing_soon = True
            self._state.parsing_turns.append(self.network.name, self)

    def on_body(self, message: RawRequest) -> None:
        if self._cycle is not None and message is self._cycle.message:
            self._cycle.feed_body()

    on_message_complete = on_body

    def on_protocol_error(self, rejected: RejectedRequest, broken: RawRequest | None) -> None:
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
            self._pending_rejection = rejected
        else:
            self._reject(rejected)

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
        if not is_complete or self._is_leaving:
            self._linger()
        elif last:
            self.close()
        elif self._drain_waiter is None:  # else `resume_writing` does, once the client has read enough
            self._start_next()
        self.regulate()

    def throttle_reading(self) -> None:
        fast_path = self._state.fast_path
        if fast_path is None or not fast_path.is_proxy(self.context):  # a proxy sends the requests of others, too
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
        cycle = self._cycle
        if cycle is not None and cycle.has_begun:
            self._state.hooks.log_failure(error)
            self.on_cycle_failed()
            return
        self._abandon_cycle()
        self._reject(RejectedRequest(error) if cycle is None else cycle.message.rejected(error))

    @property
    def is_request_complete(self) -> bool:
        return self._cycle is not None and self._cycle.message.is_complete

    def set_body_timeout(self, seconds: float | None) -> None:
        if self._cycle is not None:
            self._cycle.message.timeout_seconds = seconds

    # Called by LoopTurns

    def done(self) -> bool:
        """Return False: also a connection that has closed meanwhile takes its turn, in which it does nothing."""
        return False

    def proceed(self) -> None:
        """Parse what was left in its last turn."""
        self._is_parsing_soon = False
        self._parser.resume()
        if self._responses:
            self._flush()
        self.regulate()
        if not self._transport.is_closing():
            self._count_incoming()

    # Answering

    def _remember_renewal(self, data: bytes) -> None:
        """Let the fast path remember `data`, which is exactly one request, if it is being answered now."""
        fast_path, cycle = self._state.fast_path, self._cycle
        if fast_path is not None and cycle is not None and fast_path.remember_renewal(data, cycle.message.target):
            self._serve_repeated_read = self._state.serve_repeated

    def _admission_for(self, message: RawRequest, direct_request: DirectRequest | None) -> Admission | None:
        """Return the Admission of a handler's request, or None; the fast path acquires its slot itself."""
        state = self._state
        return state.admission if direct_request is None and state.hooks.requires_admission(message.target) else None

    def _start(self, message: RawRequest, direct_request: DirectRequest | None = None) -> None:
        """Begin to answer a request."""
        cycle = self._cycle = RequestCycle(self, message, direct_request, self._admission_for(message, direct_request))
        try:
            cycle.begin(self._state.app)
        except HTTPInputError as error:
            cycle.end()
            self._cycle = None
            self._parser.is_finished = True
            self._reject(message.rejected(not_http(unquoted(str(error)))))
        except Exception as error:  # noqa: BLE001  # logged; without a response the client would wait forever
            self.on_cycle_error(error)

    def _start_next(self) -> None:
        """Answer the next queued request, send a pending rejection, or close after EOF."""
        if self._queued and not (self._has_eof and not self._queued[0].is_complete):
            self._start(self._queued.pop(0))
            self._parser.resume()
            if self._responses:
                self._flush()
        elif self._pending_rejection is not None:
            self._reject(self._pending_rejection)
        elif self._has_eof:
            self.close()

    def _abandon_cycle(self) -> None:
        cycle, self._cycle = self._cycle, None
        if cycle is not None:
            cycle.abandon()

    def _reject(self, rejected: RejectedRequest) -> None:
        self._pending_rejection = None
        self.write(self._state.hooks.reject_request(rejected.error, origin=rejected.origin, secure=self.context.secure))
        self._linger()
