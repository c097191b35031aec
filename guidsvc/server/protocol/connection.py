"""One client connection. Requests are answered one at a time, in order of arrival.

The connection neither awaits nor sets timers: the server periodically checks whether it is `overdue`.
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

AT_ONCE = 64 * 1024
"""Bytes of fast-path answers collected for pipelined requests. Beyond it, the next requests are queued for handlers."""
BUFFER = 256 * 1024
"""Maximum bytes of a body buffered for its handler; beyond it, reading pauses."""
WAITING = 16
"""Maximum queued requests per connection; bytes beyond them stay unparsed."""
LINGER_SECONDS = 2.0
"""After a rejection, data from the client is read and discarded this long, so that it can read the answer."""


class Connection(asyncio.Protocol):
    """A client connection. The methods are grouped by their caller."""

    __slots__ = (
        "_again",
        "_answering",
        "_drained",
        "_ended",
        "_error",
        "_held",
        "_incoming_bytes",
        "_is_parsing_soon",
        "_lingering",
        "_out",
        "_out_bytes",
        "_outbox",
        "_paused",
        "_reader",
        "_shared",
        "_since",
        "_transport",
        "_waiting",
        "context",
    )
    context: Peer
    _transport: asyncio.Transport
    _outbox: SendBuffer

    def __init__(self, shared: ServerState) -> None:
        self._shared = shared
        self._again = None if shared.short is None else shared.short.serve_repeated_read
        self._reader = RequestParser(self, shared.limits.head_bytes)
        # The current request, and those queued behind it
        self._answering: RequestCycle | None = None
        self._waiting: list[RawRequest] = []
        self._incoming_bytes = 0  # of unanswered requests, at the last count
        self._error: Exception | None = None  # sent once all earlier requests are answered
        # The connection
        self._out: list[bytes] = []  # fast-path answers to be sent
        self._out_bytes = 0  # of these answers
        self._drained: asyncio.Future[None] | None = None  # set while the client does not read fast enough
        self._paused = False  # reading is paused
        self._held = False  # reading is paused by the ReadThrottle
        self._is_parsing_soon = False  # parsing goes on in the next turn of the event loop
        self._lingering = False  # input is discarded until the client closes
        self._ended = False  # the client has sent EOF
        self._since = shared.tick  # start of the current time-out

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._shared.expected.pop(self, None)
        self._transport = transport  # type: ignore[assignment]  # TCP, TLS and Unix sockets all have both directions
        self.context = Peer(self._transport)
        self._outbox = SendBuffer(self._transport, self._shared.budget, secure=self.context.secure)
        self._shared.connections.add(self)
        self._outbox.open()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        begins = reader.between and not reader.over
        if begins:
            self._since = self._shared.tick
            if self._answering is None and self._again is not None and self._drained is None:
                reply = self._again(data, self.context)
                if reply is not None:
                    self._transport.write(reply)
                    return
        before = reader.begun
        if self._shared.is_over_budget() and self._gives_way(len(data)):
            return
        reader.feed(data)
        if self._out:
            alone = begins and reader.between and reader.begun == before + 1
            if alone and self._shared.short is not None:
                self._shared.short.remember_request(data)
            self._flush()
        self.regulate()
        if self._incoming_bytes or self._answering is not None or not reader.between:
            self._count_incoming()

    def eof_received(self) -> bool:
        """Handle EOF. Return whether to stay open: complete requests are still answered, an incomplete one is not."""
        self._ended = True
        whole = self._answering is not None and self._answering.message is not self._reader.message
        return (whole or bool(self._waiting)) and not self._lingering and self.context.protocol == "http"

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._shared.connections.discard(self)
        self._shared.paused.discard(self)
        self._reader.close()
        self._outbox.end()
        self._waiting.clear()
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set_exception(StreamClosedError())
            drained.exception()  # mark it retrieved: nobody may be waiting
        self._abandon()
        self._shared.incoming_bytes -= self._incoming_bytes
        self._incoming_bytes = 0

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        self._outbox.pause()

    def resume_writing(self) -> None:
        self._outbox.resume()
        if self._outbox.is_paused:
            return
        drained, self._drained = self._drained, None
        self._since = self._shared.tick
        if drained is not None:
            drained.set_result(None)
        if self._answering is None:
            self._next()
        self.regulate()

    # Called by the parser

    def on_request_head(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser
    ) -> RawRequest | None:
        plain: DirectRequest | None = None
        shared = self._shared
        idle = self._answering is None and self._drained is None
        if idle and shared.short is not None and self._out_bytes < AT_ONCE:
            short = shared.short.answer(method, target, headers, parser, self.context)
            if isinstance(short, bytes):
                self._out.append(short)
                self._out_bytes += len(short)
                return None
            plain = short
        version = "HTTP/1.0" if parser.get_http_version() == "1.0" else "HTTP/1.1"
        last = not parser.should_keep_alive() or method == b"CONNECT"
        message = RawRequest(method, target, version, headers, last=last)
        message.validate()
        message.seconds = shared.limits.body_seconds
        self._since = shared.tick
        if idle:
            self._start(message, plain)
        else:
            self._waiting.append(message)
        return message

    def has_room(self) -> bool:
        return len(self._waiting) < WAITING

    def resume_parsing_soon(self) -> None:
        if not self._is_parsing_soon:
            self._is_parsing_soon = True
            asyncio.get_running_loop().call_soon(self._resume_parsing)

    def on_body(self, message: RawRequest) -> None:
        if self._answering is not None and message is self._answering.message:
            self._answering.feed_body()

    on_message_complete = on_body

    def on_protocol_error(self, error: Exception, broken: RawRequest | None) -> None:
        answering = self._answering
        if answering is not None and broken is answering.message:
            if answering.begun:
                self.failed()
                return
            self._abandon()
        elif broken is not None:
            self._waiting.remove(broken)
        if self._answering is not None or self._waiting:  # these are complete, and are answered first
            self._error = error
        else:
            self._send_refusal(error)

    # Called by the RequestCycle: ConnectionControl

    def write(self, data: bytes) -> asyncio.Future[None]:
        if self._outbox.is_closing:
            return closed_future()
        if self._out:
            self._flush()
        self._outbox.write(data)
        return self._shared.sent if self._drained is None else self._drained

    def on_response_complete(self) -> None:
        if self._answering is not None:
            self.on_cycle_complete(last=self._answering.last)

    def on_cycle_complete(self, *, last: bool) -> None:
        whole = self.is_whole
        if self._answering is not None:
            self._answering.end()
            self._answering = None
            if self._incoming_bytes:
                self._count_incoming()
        self._since = self._shared.tick
        if self._outbox.is_closing:
            return
        if not whole:
            self._linger()
        elif last:
            self.close()
        elif self._drained is None:  # else `resume_writing` does, once the client has read enough
            self._next()
        self.regulate()

    def resume_reading(self) -> None:
        self._held = False
        self._since = self._shared.tick
        self.regulate()

    def pause_reading(self) -> None:
        self._held = True
        self._shared.held.add(self)

    def failed(self) -> None:
        is_open_ended = self._is_open_ended
        self._abandon()
        if is_open_ended:
            self._outbox.reset()
        else:
            self.close()

    def fault(self, error: Exception) -> None:
        if self._answering is not None and self._answering.begun:
            self._shared.hooks.log_failure(error)
            self.failed()
            return
        self._abandon()
        self._send_refusal(error)

    def close(self) -> None:  # by the server too
        self._reader.over = True
        if self._is_open_ended:  # a regular close would make the answer look complete
            self._outbox.reset()
            return
        if self._out:
            self._flush()
        self._outbox.close()

    @property
    def is_whole(self) -> bool:
        return self._answering is not None and self._answering.message.whole

    def set_body_timeout(self, seconds: float | None) -> None:
        if self._answering is not None:
            self._answering.message.seconds = seconds

    # Called by the server

    def regulate(self) -> None:
        message = self._reader.message
        full = self._drained is not None or self._held or bool(self._waiting) or self._is_parsing_soon
        if not full and message is not None and message.buffered > BUFFER and not self._transport.is_closing():
            full = not has_sent_all(self._transport)  # else its EOF must be read, which follows all other data
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            (self._shared.paused.add if full else self._shared.paused.discard)(self)
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _admission_for(self, message: RawRequest, plain: DirectRequest | None) -> Admission | None:
        """Return the Admission of a handler's request, or None; the fast path acquires its slot itself."""
        shared = self._shared
        return shared.admission if plain is None and shared.hooks.requires_admission(message.target) else None

    def overdue(self, now: float) -> bool:
        limits = self._shared.limits
        if self._drained is not None:
            return self._outbox.is_too_slow(now, limits.write_seconds, limits.write_bytes_per_second)
        seconds = self._patience()
        return seconds is not None and now - self._since > seconds

    def retire(self, latest: float) -> bool:
        sending = not self._outbox.is_empty
        if self._outbox.is_closing:
            return sending
        asked = self._answering is not None or bool(self._waiting) or not self._reader.between
        if sending or asked or self._since > latest or has_unread(self._transport):
            return True
        self.close()
        return False

    def expire(self) -> None:
        is_idle = self._answering is None and self._reader.between and self._drained is None and not self._lingering
        if not (is_idle and has_unread(self._transport)):
            self.abort()

    def abort(self) -> None:
        if self._is_open_ended:
            self._outbox.reset()
        else:
            self._outbox.abort()

    @property
    def _is_open_ended(self) -> bool:
        return self._answering is not None and self._answering.is_open_ended

    def _patience(self) -> float | None:
        limits, answering = self._shared.limits, self._answering
        if self._lingering:
            return LINGER_SECONDS
        if answering is not None:
            incoming = answering.message is self._reader.message
            return answering.message.seconds if incoming and answering.is_waiting else None
        return limits.idle_seconds if self._reader.between else limits.head_seconds

    # Answering

    def _start(self, message: RawRequest, plain: DirectRequest | None = None) -> None:
        """Begin to answer a request."""
        answering = self._answering = RequestCycle(self, message, plain, self._admission_for(message, plain))
        try:
            answering.begin(self._shared.app)
        except HTTPInputError as error:
            answering.end()
            self._answering = None
            self._reader.over = True
            self._send_refusal(not_http(unquoted(str(error))))
        except Exception as error:  # noqa: BLE001  # logged; without a response the client would wait forever
            self.fault(error)

    def _next(self) -> None:
        """Answer the next queued request, send a pending error, or close after EOF."""
        if self._waiting and not (self._ended and not self._waiting[0].whole):
            self._start(self._waiting.pop(0))
            self._reader.resume()
            if self._out:
                self._flush()
        elif self._error is not None:
            self._send_refusal(self._error)
        elif self._ended:
            self.close()

    def _resume_parsing(self) -> None:
        """Parse what was left in the last turn of the event loop."""
        self._is_parsing_soon = False
        self._reader.resume()
        if self._out:
            self._flush()
        self.regulate()
        if not self._transport.is_closing():
            self._count_incoming()

    def _count_incoming(self) -> None:
        """Update the number of bytes held for unanswered requests."""
        answering = self._answering
        messages = self._waiting if answering is None else [answering.message, *self._waiting]
        held = self._reader.held_bytes + sum(message.held_bytes for message in messages)
        self._shared.incoming_bytes += held - self._incoming_bytes
        self._incoming_bytes = held

    def _gives_way(self, size: int) -> bool:
        """Reject `size` more bytes if the connection would exceed its share; return whether it did."""
        if self._reader.over or self._incoming_bytes + size <= self._shared.share_bytes():
            return False
        if self._drained is not None:
            self.abort()  # it does not read its answers either
        else:
            self._reader.give_up(Overloaded("too much is being received"))
            self._count_incoming()
        return True

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _abandon(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.abandon()

    def _send_refusal(self, error: Exception) -> None:
        self._error = None
        self.write(self._shared.hooks.reject_request(error, secure=self.context.secure))
        self._linger()

    def _linger(self) -> None:
        """Close after the client has read the answer: a client cut off while sending may never see it."""
        self._reader.over = self._lingering = True
        self._waiting.clear()
        self._count_incoming()
        self._since = self._shared.tick
        if self._ended or not self._transport.can_write_eof():
            self.close()
        elif not self._outbox.is_closing:
            self._transport.write_eof()
