"""The state of a client connection, and the methods by which its server manages it.

A connection sets no timers: the server periodically checks `is_overdue`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from guidsvc.errors import Overloaded
from guidsvc.server.client_networks import ClientNetwork
from guidsvc.server.protocol.cycle import RequestCycle
from guidsvc.server.protocol.parser import RequestParser
from guidsvc.server.protocol.read_throttle import DISCARD_BYTES, DISCARD_BYTES_PER_SECOND
from guidsvc.server.protocol.request import RawRequest
from guidsvc.server.protocol.send_buffer import SendBuffer
from guidsvc.server.protocol.state import Peer, ServerState, has_sent_all, has_unacknowledged, has_unread

MAX_BODY_BUFFER_BYTES = 256 * 1024
"""Maximum bytes of a body buffered for its handler; beyond it, reading pauses."""
ORDINARY_BYTES = 8 * 1024
"""Memory of a request that is served whatever its connection's share is: of one with 20 headers, and a small body."""
TOO_MUCH = "too much is being received"
MAX_RESPONSE_BYTES = 64 * 1024
"""Bytes of fast-path answers collected for pipelined requests. Beyond it, the next requests are queued for handlers."""
LINGER_SECONDS = 2.0
"""After a rejection, data from the client is read and discarded this long, so that it can read the answer."""
LEAVE_STREAM_SECONDS = 2.0
"""Time for the rest of a response in parts, once its connection must close."""
STUCK_SECONDS = 1.0
"""On shutdown, a client that takes nothing for this long is not waited for, if its response was broken off."""


class BaseConnection(asyncio.Protocol):
    """A connection as its server manages it: see `ManagedConnection`. `Connection` adds the answering of requests."""

    __slots__ = (
        "_cycle",
        "_cycle_until_eof",
        "_discarded_bytes",
        "_drain_waiter",
        "_has_eof",
        "_incoming_bytes",
        "_is_expendable",
        "_is_leaving",
        "_is_lingering",
        "_is_parsing_soon",
        "_is_reading_paused",
        "_is_throttled",
        "_leave_start",
        "_parser",
        "_queued",
        "_response_bytes",
        "_responses",
        "_send_buffer",
        "_serve_repeated_read",
        "_state",
        "_timeout_start",
        "_transport",
        "context",
        "network",
        "on_reading_resumed",
    )
    context: Peer
    _parser: RequestParser
    _serve_repeated_read: Callable[[bytes, Peer], bytes | None] | None
    _send_buffer: SendBuffer
    _transport: asyncio.Transport

    def __init__(self, state: ServerState, network: ClientNetwork) -> None:
        self._state = state
        self.network = network
        self.on_reading_resumed: Callable[[], object] = do_nothing  # see `ReadingControl`
        # The current request, and those queued behind it
        self._cycle: RequestCycle | None = None
        self._cycle_until_eof: RequestCycle | None = None  # whose connection closes when the client sends nothing more
        self._queued: list[RawRequest] = []
        self._incoming_bytes = 0  # of unanswered requests, at the last count
        # The connection
        self._responses: list[bytes] = []  # fast-path answers to be sent
        self._response_bytes = 0  # of these answers
        self._drain_waiter: asyncio.Future[None] | None = None  # set while the client does not read fast enough
        self._is_reading_paused = False  # reading is paused
        self._is_throttled = False  # reading is paused by the ReadThrottle
        self._is_parsing_soon = False  # parsing continues in the next turn of the event loop
        self._is_lingering = False  # input is discarded until the client closes
        self._discarded_bytes = 0  # of this input, since reading last paused
        self._is_leaving = False  # the connection closes after its present request
        self._is_expendable = False  # it leaves, and its client loses nothing without the last response
        self._leave_start = state.tick  # when it was first asked to leave
        self._has_eof = False  # the client has sent EOF
        self._timeout_start = state.tick  # start of the current time-out

    def regulate(self) -> None:
        message = self._parser.message
        should_pause = (
            (self._drain_waiter is not None and not self._is_discarding)
            or self._is_throttled
            or bool(self._queued)
            or self._is_parsing_soon
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
            paused = self._state.table.paused_connections
            (paused.add if should_pause else paused.discard)(self)
            if should_pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
                self.on_reading_resumed()

    def check_paused(self) -> None:
        cycle = self._cycle
        if cycle is not None and cycle is self._cycle_until_eof and has_sent_all(self._transport):
            self.abort()  # the EOF is behind requests that are not read
        else:
            self.regulate()

    def is_overdue(self, now: float) -> bool:
        limits = self._state.limits
        if self._drain_waiter is not None:
            return self._send_buffer.is_too_slow(now, limits.write_seconds, limits.write_bytes_per_second)
        seconds = self._timeout_seconds()
        return seconds is not None and now - self._timeout_start > seconds

    def retire(self, idle_before: float) -> bool:
        sending, is_stuck = not self._send_buffer.is_empty, self.is_stuck()
        if self._send_buffer.is_closing:
            if is_stuck and self._cycle is not None:  # the response was broken off: its rest is of no use
                self.abort()
                return False
            return sending
        has_requests = self._cycle is not None or bool(self._queued) or self._has_unparsed()
        if sending or has_requests or self._timeout_start > idle_before or has_unread(self._transport):
            return True
        self.close()
        return False

    def is_stuck(self) -> bool:
        return not self._send_buffer.is_empty and self._send_buffer.is_too_slow(self._state.tick, STUCK_SECONDS, 1)

    @property
    def waiting_since(self) -> float | None:
        is_waiting = self._drain_waiter is not None or self._timeout_seconds() is not None
        return self._timeout_start if is_waiting else None

    def expire(self) -> bool:
        is_idle = (
            self._cycle is None and not self._has_unparsed() and self._drain_waiter is None and not self._is_lingering
        )
        if is_idle and has_unread(self._transport):
            return False
        self.abort()
        return True

    def leave(self) -> bool:
        if not self._is_leaving:
            self._leave_start = self._state.tick
        elif self._is_late_to_leave():
            self.abort()
            return True
        if self.waiting_since is None:
            self._is_leaving = True
            if self._cycle is not None:
                self._is_expendable |= self._cycle.leave()
            return False
        if not self._is_sending_last() and self.expire():
            return True
        self._is_leaving = True
        # A handler answers the next request: the fast path never closes
        self._serve_repeated_read, self._response_bytes = None, MAX_RESPONSE_BYTES
        return False

    def give_up(self) -> bool:
        if self._is_expendable:
            self.abort()
        return self._is_expendable

    def shut_down(self) -> None:
        is_answering = self._cycle is not None and self._cycle.reject_unreceived()
        if not is_answering and not self._is_lingering:
            self.close()

    def close(self) -> None:
        self._parser.is_finished = True
        if self._is_open_ended:  # a regular close would make the answer look complete
            self._send_buffer.reset()
            return
        if self._responses:
            self._flush()
        self._send_buffer.close()

    def hang_up_at_eof(self) -> None:
        self._cycle_until_eof = self._cycle
        if self._has_eof:
            self.abort()

    def abort(self) -> None:
        if self._is_open_ended:
            self._send_buffer.reset()
        else:
            self._send_buffer.abort()

    @property
    def is_leaving(self) -> bool:
        return self._is_leaving

    @property
    def _is_discarding(self) -> bool:
        """Whether the response came early, and what the client still sends is discarded.

        The client may read the response only once it has sent everything.
        """
        cycle = self._cycle
        return self._is_lingering or (cycle is not None and cycle.has_begun and cycle.message is self._parser.message)

    def _has_unparsed(self) -> bool:
        """Whether a part of a request has arrived, or requests wait for their turn to be parsed."""
        return self._is_parsing_soon or not self._parser.is_between_requests

    def _is_sending_last(self) -> bool:
        """Whether the connection sends its last response, and its client's system has not acknowledged all of it."""
        if self._is_lingering:
            return not self._send_buffer.is_empty or has_unacknowledged(self._transport)
        return self._is_leaving and self._drain_waiter is not None

    def _is_late_to_leave(self) -> bool:
        """Whether a connection that must leave has used up its time."""
        start, seconds = self._leave_start, self._state.limits.leave_seconds
        if self._is_lingering:
            start, seconds = self._timeout_start, LINGER_SECONDS
        elif self._cycle is not None and self._cycle.has_begun:
            seconds = LEAVE_STREAM_SECONDS
        return self._state.tick - start > seconds

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

    def _linger(self) -> None:
        """Close after the client has read the answer: a client cut off while sending may never see it.

        TLS has no half-closed connections: there the client learns only from the answer that it is the last.
        """
        self._parser.is_finished = self._is_lingering = True
        self._queued.clear()
        self._count_incoming()
        self._timeout_start = self._state.tick
        if self._has_eof:
            self.close()
        elif self._transport.can_write_eof() and not self._send_buffer.is_closing:
            with suppress(OSError):  # the client has just reset the connection
                self._transport.write_eof()

    def _discard(self, size: int) -> None:
        """Count input that is discarded. Beyond the bound, reading pauses for a second after each part."""
        self._discarded_bytes += size
        if self._discarded_bytes > DISCARD_BYTES and not self._is_throttled:
            self._discarded_bytes = DISCARD_BYTES - DISCARD_BYTES_PER_SECOND
            self._is_throttled = True
            self._state.read_throttle.add(self)
            self.regulate()

    def resume_reading(self) -> None:
        """Read again after a pause. It does not extend the time that is left for the client to read its response."""
        self._is_throttled = False
        if not self._is_lingering:
            self._timeout_start = self._state.tick
        self.regulate()

    def _flush(self) -> None:
        responses, self._responses, self._response_bytes = self._responses, [], 0
        self._transport.write(responses[0] if len(responses) == 1 else b"".join(responses))

    def _count_incoming(self) -> None:
        """Update the number of bytes held for unanswered requests."""
        cycle = self._cycle
        total_bytes = self._parser.buffered_bytes
        if cycle is not None:
            total_bytes += cycle.message.memory_bytes
        if self._queued:
            total_bytes += sum(message.memory_bytes for message in self._queued)
        added_bytes = total_bytes - self._incoming_bytes
        self._state.incoming_bytes += added_bytes
        self.network.incoming_bytes += added_bytes
        self._incoming_bytes = total_bytes

    def _refuse_input(self, size: int) -> bool:
        """Discard `size` bytes after the last response, or reject them over the share; return whether it did either."""
        if self._is_lingering:
            self._discard(size)
            return True
        return self._reject_over_share(size)

    def _exceeds_share(self, message: RawRequest) -> bool:
        """Whether the memory of a new request exceeds the connection's share: many short lines take much of it."""
        state, memory_bytes = self._state, message.memory_bytes
        return memory_bytes > ORDINARY_BYTES and state.table.networks.exceeds_share(
            self.network, state.limits.incoming_bytes, self._incoming_bytes, memory_bytes
        )

    def _reject_over_share(self, size: int) -> bool:
        """Reject `size` more bytes if the connection would exceed its share; return whether it did."""
        state = self._state
        if self._parser.is_finished or not state.table.networks.exceeds_share(
            self.network, state.limits.incoming_bytes, self._incoming_bytes, size
        ):
            return False
        if self._drain_waiter is not None:
            self.abort()  # it does not read its answers either
        else:
            self._parser.reject(Overloaded(TOO_MUCH))
            self._count_incoming()
        return True


def do_nothing() -> None:
    """Do nothing."""
