"""What a connection receives after its TLS handshake, on its way to the TLS protocol: in small parts, and in turns.

The TLS protocol decrypts all that it gets at once. A client may send thousands of records that hold nothing, such as
KeyUpdates, in a few KiB, or few requests and much padding in each record. So only a few records are decrypted at once,
and the rest waits for its turn.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from guidsvc.runtime.fairness.loop_turns import LoopTurns

RECEIVED_BYTES = 256 * 1024
"""Bytes that a connection reads at once: more than the kernel has, else uvloop reads on and on."""
PART_BYTES = 16 * 1024
"""Bytes that the TLS protocol gets at once. Its buffers are as large, for as long as the connection lasts."""
RECORDS = 16
"""Records that are decrypted in one turn: a large request has fewer."""
CLOSING_BYTES = 16 * 1024 * 1024
"""Bytes that a client may still send after the end of the last response, until it closes. Then it is disconnected."""
UNREAD_RECORDS = 1024
"""Records that are decrypted while the client does not read: OpenSSL keeps its answers to them, without a bound."""
HELD_SECONDS = 1.0
"""How long held data waits at most until it is looked at again. The connection can also close meanwhile."""
_HEADER_BYTES = 5


@runtime_checkable
class ReadingControl(Protocol):
    """A connection that says when it reads again, after it had paused its transport."""

    on_reading_resumed: Callable[[], object]


class RecordBoundaries:
    """Follows the records of a connection, by the sizes in their headers."""

    def __init__(self) -> None:
        self.next_header = 0
        """The offset of the next header, from the first byte after the last part."""

    def part(self, data: memoryview, max_records: int) -> tuple[int, int]:
        """Return the size of the next part of the data, and how many of at most `max_records` records begin in it.

        A header whose end is missing belongs to no part yet.
        """
        end, header, records = min(len(data), PART_BYTES), self.next_header, 0
        while header + _HEADER_BYTES <= end and records < max_records:
            header += _HEADER_BYTES + (data[header + 3] << 8 | data[header + 4])
            records += 1
        size = min(header, end)
        self.next_header = header - size
        return size, records

    def needs_more(self, data: bytes) -> bool:
        """Return whether nothing of the data can be passed on before more arrives."""
        return not data or (not self.next_header and len(data) < _HEADER_BYTES)


class TlsTurns(LoopTurns):
    """The turns of the TLS connections of a process, and the buffer that they read into."""

    def __init__(self) -> None:
        super().__init__()
        self.received = memoryview(bytearray(RECEIVED_BYTES))
        """Maximum bytes of one read, which are passed on or copied at once."""


class TlsRelay(asyncio.BufferedProtocol):
    """Passes what `transport` receives to `tls`, whose decrypted side is `secure`, and takes the turns of `network`.

    While the application does not read, or the client has not read for too many records, it holds the rest, and the
    transport does not read.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        tls: Any,
        secure: Any,
        boundaries: RecordBoundaries,
        turns: TlsTurns,
        network: str,
    ) -> None:
        self._transport = transport
        self._tls = tls
        self._secure = secure
        self._turns = turns
        self._network = network
        self._boundaries = boundaries
        self._pending = b""
        self._bytes_after_end = 0
        self._unread_records = 0  # passed on since the transport has sent nothing
        self._is_writing_paused = False
        self._is_queued = self._is_lost = self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.eof_received = tls.eof_received  # type: ignore[method-assign]  # saves a call

    def start(self, data: bytes) -> None:
        """Begin with data that has already been received."""
        self._transport.pause_reading()
        self._is_paused = True
        self._pass_on(memoryview(data))

    # Called by the transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        return self._turns.received

    def buffer_updated(self, nbytes: int) -> None:
        received, self._is_paused = self._turns.received, False
        if (
            nbytes == _HEADER_BYTES + (received[3] << 8 | received[4])
            and nbytes <= PART_BYTES
            and not self._pending
            and not self._boundaries.next_header
            and self._secure.is_reading()
            and not self._secure.is_closing()
            and not self._is_writing_paused
        ):  # one record, as nearly all requests are: inline, for it is a large part of what they cost
            self._tls.get_buffer(nbytes)[:nbytes] = received[:nbytes]
            self._tls.buffer_updated(nbytes)
        else:
            data = received[:nbytes]
            self._pass_on(memoryview(self._pending + data) if self._pending else data)

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._is_writing_paused, self._unread_records = False, 0
        self._tls.resume_writing()
        if self._is_paused:
            self.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost, self._pending = True, b""
        if self._timer is not None:
            self._timer.cancel()
        self._tls.connection_lost(exc)

    # Called by the connection

    def resume(self) -> None:
        """Continue with the data that is held: the application reads again, or closes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._queue()

    # Called by TlsTurns

    def done(self) -> bool:
        return self._is_lost

    def proceed(self) -> None:
        self._is_queued = False
        self._pass_on(memoryview(self._pending))

    def _pass_on(self, data: memoryview) -> None:
        """Pass on one part of the data. Keep the rest, and read no more until it is passed on.

        It is only one, because the application parses as many requests of each part as it does in one turn.
        """
        if self._may_pass():
            size, records = self._boundaries.part(data, RECORDS)
            feed(self._tls, data[:size])
            data = data[size:]
            if self._is_writing_paused:
                self._unread_records += records
            if self._secure.is_closing() and self._is_over_after_end(size):
                return
        self._pending = b"" if self._is_lost else bytes(data)
        if self._is_lost or self._transport.is_closing():
            return
        is_paused = not self._boundaries.needs_more(self._pending)
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            (self._transport.pause_reading if is_paused else self._transport.resume_reading)()
        if not is_paused:
            return
        if self._may_pass():
            self._queue()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HELD_SECONDS, self.resume)

    def _is_over_after_end(self, size: int) -> bool:
        """Count bytes that are read after the end of the last response. Disconnect the client if they are too many."""
        self._bytes_after_end += size
        if self._bytes_after_end <= CLOSING_BYTES:
            return False
        self._pending = b""
        self._transport.abort()
        return True

    def _may_pass(self) -> bool:
        return (
            not self._is_lost
            and self._unread_records < UNREAD_RECORDS
            and (self._secure.is_reading() or self._secure.is_closing())
        )

    def _queue(self) -> None:
        if not self._is_queued and not self._is_lost:
            self._is_queued = True
            self._turns.append(self._network, self)


def feed(tls: Any, data: memoryview) -> None:
    """Give data to a TLS protocol."""
    while data:
        buffer = tls.get_buffer(len(data))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        tls.buffer_updated(size)
        data = data[size:]
