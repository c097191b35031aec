"""TLS handshakes: few of them take their CPU time in one iteration of the event loop, and client networks take turns.

A handshake costs the server a signature, and the client next to nothing: it may send the same bytes each time. So all
that arrives before a handshake is complete waits for a turn. Requests on open connections are answered between turns.
"""

import asyncio
import ssl
from socket import socket
from typing import Any

from guidsvc.server.accepting.tls_relay import ReadingControl, RecordBoundaries, TlsRelay, TlsTurns, feed

STEP_BYTES = 4096
"""Bytes of a handshake that are read at once. Reading then pauses until its turn."""
SHUTDOWN_SECONDS = 10.0
"""Time for the client to complete the TLS shutdown."""


class HandshakeTurns(TlsTurns):
    """The turns of the TLS connections of a process, during their handshakes and later."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = memoryview(bytearray(STEP_BYTES))
        """Maximum bytes of one read; each handshake copies them."""


class Handshake(asyncio.BufferedProtocol):
    """The protocol of a connection until its handshake is complete. `network` is the group whose turns it takes."""

    def __init__(self, context: ssl.SSLContext, seconds: float, turns: HandshakeTurns, network: str) -> None:
        self.network = network
        self._context = context
        self._seconds = seconds
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._tls: Any = None  # asyncio's or uvloop's SSLProtocol
        self._pending = b""
        self._boundaries = RecordBoundaries()
        self._is_queued = self._has_eof = self._is_lost = False
        self._has_begun: asyncio.Future[None] = self._loop.create_future()

    async def run(self, connection: socket, protocol: asyncio.Protocol) -> None:
        """Complete the handshake, and connect the protocol. Raise OSError if the client fails to do its part."""
        try:
            async with asyncio.timeout(self._seconds):
                transport, _ = await self._loop.connect_accepted_socket(lambda: self, connection)
                await self._has_begun
                await self._upgrade(transport, protocol)
        except BaseException:
            if self._transport is not None:
                self._transport.abort()
            raise

    async def _upgrade(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        if transport.is_closing():
            raise ConnectionResetError("the client disconnected before the TLS handshake")
        self._loop.call_soon(self._interpose, transport)  # before the TLS protocol gets its first data
        early = _EarlyData()
        upgraded = await self._loop.start_tls(
            transport,
            early,
            self._context,
            server_side=True,
            ssl_handshake_timeout=self._seconds,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
        if upgraded is None or self._is_lost:
            raise ConnectionResetError("the client disconnected during the TLS handshake")
        upgraded.set_protocol(protocol)
        protocol.connection_made(upgraded)
        early.pass_on(protocol)
        self._finish(transport, upgraded, protocol)

    def _interpose(self, transport: asyncio.Transport) -> None:
        """Take the place of the TLS protocol, which `start_tls` has given to the transport."""
        if transport.is_closing():
            return
        self._tls = transport.get_protocol()
        transport.set_protocol(self)
        self._loop.call_soon(self._queue)  # the TLS protocol is connected before that

    def _finish(self, transport: asyncio.Transport, secure: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Let a relay pass on what arrives from now on."""
        if self._has_eof:
            self._feed()
        if self._is_lost:
            return
        relay = TlsRelay(transport, self._tls, secure, self._boundaries, self._turns, self.network)
        transport.set_protocol(relay)
        if isinstance(protocol, ReadingControl):
            protocol.on_reading_resumed = relay.resume
        data, self._pending = self._pending, b""
        relay.start(data)

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # TCP and Unix sockets have both directions

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        return self._turns.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._pending += self._turns.buffer[:nbytes]
        if self._transport is not None:
            self._transport.pause_reading()
        self._queue()

    def eof_received(self) -> bool:
        """Handle EOF in its turn, after all data. Return whether there was any."""
        self._has_eof = True
        self._queue()
        return bool(self._pending) or self._tls is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._tls is not None:
            self._tls.connection_lost(exc)
        if not self._has_begun.done():
            self._has_begun.set_exception(ConnectionResetError("the client disconnected before the TLS handshake"))
            self._has_begun.exception()  # mark it retrieved: the task may have been cancelled

    def pause_writing(self) -> None:
        if self._tls is not None:
            self._tls.pause_writing()

    def resume_writing(self) -> None:
        if self._tls is not None:
            self._tls.resume_writing()

    # Called by HandshakeTurns

    def done(self) -> bool:
        """Return whether it waits no longer for a turn."""
        return self._is_lost

    def proceed(self) -> None:
        """Process the received data."""
        self._is_queued = False
        if self._tls is not None:
            self._feed()
        elif not self._has_begun.done():
            self._has_begun.set_result(None)

    def _queue(self) -> None:
        if not self._is_queued and not self._is_lost and (self._pending or self._has_eof):
            self._is_queued = True
            self._turns.append(self.network, self)

    def _feed(self) -> None:
        data = memoryview(self._pending)
        while data and not self._is_lost:
            size, _ = self._boundaries.part(data, len(data))
            if not size:
                break
            feed(self._tls, data[:size])
            data = data[size:]
        self._pending = bytes(data)
        if self._has_eof and self._transport is not None and not self._is_lost:
            self._has_eof = False
            self._tls.eof_received()
            self._transport.close()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


class _EarlyData(asyncio.Protocol):
    """The data that arrives with the end of a handshake, before the real protocol is connected."""

    def __init__(self) -> None:
        self._data: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._data.append(data)

    def pass_on(self, protocol: asyncio.Protocol) -> None:
        """Pass the data on to the real protocol."""
        for each in self._data:
            protocol.data_received(each)
