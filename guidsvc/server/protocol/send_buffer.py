"""Send buffer: the unsent bytes of a connection, and the budget for those of all connections.

A client must read at a minimum rate. When the unsent bytes of all connections exceed the budget, connections are reset:
of the client network that holds the most bytes, those that have waited longest. So one client cannot cut off others.
"""

import asyncio
import socket
import struct
import sys
from contextlib import suppress
from typing import Protocol

import structlog

SLICE_BYTES = 64 * 1024
"""Bytes written to a TLS transport at once. It does not report how many of them wait in the TCP transport below."""
RELEASE_BYTES, RELEASE_SECONDS = 8 * 1024 * 1024, 5.0
"""Freed memory is returned to the system after this many bytes of answers, at most once per this interval."""
HIDDEN_BYTES = 128 * 1024
"""Bytes that may wait in the TCP transport below TLS while the client reads nothing; they count as unsent."""
LOG_SECONDS = 10.0
"""Minimum interval between log lines about reset connections."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_log = structlog.get_logger(__name__)


class ResettableConnection(Protocol):
    """A connection that holds unsent bytes."""

    network: str
    """The name of its client network."""

    def reset(self) -> None:
        """Close the connection with a TCP reset."""


class SendBudget:
    """The unsent bytes of all connections; `connection_bytes` is the maximum of one connection."""

    def __init__(self, total_bytes: int, connection_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._connection_bytes = min(connection_bytes, total_bytes)
        self._networks: dict[str, _NetworkUnsent] = {}
        self._resets = 0  # since the last log line
        self._log_time = -LOG_SECONDS
        self._release_time = 0.0  # time of the last release of memory
        self.unsent_bytes = 0
        self.written_bytes = 0
        """Bytes of answers since memory was released."""

    def note(self, connection: ResettableConnection, unsent_bytes: int) -> None:
        """Record a connection's unsent bytes; reset connections until the total is within the budget."""
        self._record(connection, unsent_bytes)
        if unsent_bytes > self._connection_bytes:
            self._reset(connection)
        while self.unsent_bytes > self._total_bytes:
            largest = max(self._networks.values(), key=lambda network: network.unsent_bytes)
            self._reset(next(iter(largest.connections)))

    def should_release(self, now: float) -> bool:
        """Whether enough answers were sent and freed that memory should be returned to the system."""
        if self.written_bytes - self.unsent_bytes < RELEASE_BYTES or now - self._release_time < RELEASE_SECONDS:
            return False
        self._release_time, self.written_bytes = now, self.unsent_bytes
        return True

    def _record(self, connection: ResettableConnection, unsent_bytes: int) -> None:
        network = self._networks.get(connection.network)
        if network is None:
            if not unsent_bytes:
                return
            network = self._networks[connection.network] = _NetworkUnsent()
        self.unsent_bytes += network.record(connection, unsent_bytes)
        if not network.connections:
            del self._networks[connection.network]

    def _reset(self, connection: ResettableConnection) -> None:
        self._record(connection, 0)
        self._resets += 1
        self._log_resets()
        connection.reset()

    def _log_resets(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._log_time >= LOG_SECONDS:
            _log.warning(
                "slow readers reset, unsent answers exceed the budget",
                connections=self._resets,
                max_unsent_bytes=self._total_bytes,
            )
            self._log_time, self._resets = now, 0


class _NetworkUnsent:
    """The unsent bytes of the connections of a client network."""

    __slots__ = ("connections", "unsent_bytes")

    def __init__(self) -> None:
        self.connections: dict[ResettableConnection, int] = {}  # ordered by when each began to wait
        self.unsent_bytes = 0

    def record(self, connection: ResettableConnection, unsent_bytes: int) -> int:
        """Record the unsent bytes of a connection; return their growth."""
        growth = unsent_bytes - self.connections.get(connection, 0)
        if unsent_bytes:
            self.connections[connection] = unsent_bytes
        else:
            self.connections.pop(connection, None)
        self.unsent_bytes += growth
        return growth


class SendRate:
    """The rate at which a client reads, while any bytes are unsent."""

    __slots__ = ("_read_bytes", "_window_start", "retained_bytes", "unsent_bytes")

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.retained_bytes = 0
        """Bytes of incompletely sent answers: each stays in memory until its last byte is sent."""
        self._read_bytes = 0  # in the current window
        self._window_start: float | None = None  # the start of the window

    def measure(self, unsent_bytes: int, added_bytes: int) -> None:
        """Record the current unsent bytes, after `added_bytes` were written."""
        self._read_bytes += self.unsent_bytes + added_bytes - unsent_bytes
        self.unsent_bytes = unsent_bytes
        self.retained_bytes = self.retained_bytes + added_bytes if unsent_bytes else 0

    def is_too_slow(self, now: float, seconds: float, bytes_per_second: float) -> bool:
        """Whether the client read more slowly than this rate, averaged over a window of `seconds`."""
        if not self.unsent_bytes:
            self._window_start = None
            return False
        if self._window_start is None:
            self._window_start, self._read_bytes = now, 0
        elif now - self._window_start > seconds:
            if self._read_bytes < bytes_per_second * seconds:
                return True
            self._window_start, self._read_bytes = now, 0
        return False


class SendBuffer:
    """The data being sent to one client. `is_paused`: the transport has unsent bytes."""

    __slots__ = (
        "_budget",
        "_has_ended",
        "_hidden_bytes",
        "_is_closing",
        "_queue",
        "_queued_bytes",
        "_rate",
        "_slice_bytes",
        "_transport",
        "is_paused",
        "network",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, budget: SendBudget, *, secure: bool, network: str) -> None:
        self._transport = transport
        self.network = network
        self._budget = budget
        self._rate = SendRate()
        self._queue: list[memoryview] = []  # TLS only, and short; a deque would take 700 bytes
        self._queued_bytes = 0
        self._slice_bytes, self._hidden_bytes = (SLICE_BYTES, HIDDEN_BYTES) if secure else (sys.maxsize, 0)
        self._is_closing = self._has_ended = False
        self.is_paused = False

    def open(self) -> None:
        """Make the transport report any unsent byte; a TLS transport may at once report bytes of its own."""
        self._transport.set_write_buffer_limits(high=1, low=0)

    def write(self, data: bytes) -> None:
        """Send data, after data that is still unsent."""
        before = self._rate.unsent_bytes
        self._budget.written_bytes += len(data)
        if self._queue or len(data) > self._slice_bytes:
            self._queue.append(memoryview(data))
            self._queued_bytes += len(data)
            self._push()
        else:
            self._transport.write(data)
        if self.is_paused or before:
            self._measure(len(data) + before - self._rate.unsent_bytes)

    def pause(self) -> None:
        """Handle a transport with unsent bytes."""
        self.is_paused = True
        if not self._rate.unsent_bytes:
            self._measure(self._waiting_bytes())

    def resume(self) -> None:
        """Handle a transport that has sent all its bytes."""
        self.is_paused = False
        self._push()
        self._measure(0)
        if self._is_closing and not self._queue:
            self._transport.close()

    def is_too_slow(self, now: float, seconds: float, bytes_per_second: float) -> bool:
        """Whether the client reads more slowly than this rate."""
        self._measure(0 if self._rate.unsent_bytes else self._waiting_bytes())
        return self._rate.is_too_slow(now, seconds, bytes_per_second)

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._is_closing or self._transport.is_closing()

    @property
    def is_empty(self) -> bool:
        """Whether all data is sent."""
        return not self._waiting_bytes()

    def close(self) -> None:
        """Close the connection once all data is sent."""
        if self._queue:
            self._is_closing = True
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now; with a reset if data is unsent, so that no answer looks complete."""
        if self._waiting_bytes() or self.is_closing:  # a transport that is still closing has bytes to send
            reset_on_close(self._transport.get_extra_info("socket"))
        self._transport.abort()

    def reset(self) -> None:
        """Close the connection now, with a reset."""
        self._has_ended = True
        self._budget.note(self, 0)
        reset_on_close(self._transport.get_extra_info("socket"))
        self._transport.abort()

    def end(self) -> None:
        """Discard unsent data: the connection has ended."""
        self._queue.clear()
        self._queued_bytes = 0
        self._has_ended = True
        self._budget.note(self, 0)

    def _push(self) -> None:
        """Write queued data to the transport, a slice at a time, until it is paused."""
        while self._queue and not self.is_paused:
            data = self._queue[0]
            part, rest = data[: self._slice_bytes], data[self._slice_bytes :]
            self._queue[:1] = [rest] if rest else []
            self._queued_bytes -= len(part)
            self._transport.write(part)

    def _waiting_bytes(self) -> int:
        return self._transport.get_write_buffer_size() + self._queued_bytes

    def _measure(self, added_bytes: int) -> None:
        if not self._has_ended:
            unsent_bytes = self._waiting_bytes()
            self._rate.measure(unsent_bytes, added_bytes)
            self._budget.note(self, self._rate.retained_bytes + self._hidden_bytes if unsent_bytes else 0)


def reset_on_close(connection: socket.socket | None) -> None:
    """Make a socket send a TCP reset on close, instead of a regular end. No effect on a Unix socket."""
    if connection is None:
        return
    with suppress(OSError):
        duplicate = socket.socket(fileno=connection.fileno())
        try:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        finally:
            duplicate.detach()
