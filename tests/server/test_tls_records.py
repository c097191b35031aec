"""Records of TLS after the handshake: few are decrypted in one turn, whatever a client packs into its bytes."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from random import Random

import pytest
import uvloop
from tornado.web import Application, RequestHandler

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.runtime.fairness import loop_turns
from guidsvc.server.accepting import tls_relay
from guidsvc.server.accepting.tls_relay import PART_BYTES, RecordBoundaries
from guidsvc.server.server import serving_on
from guidsvc.server.tls import Tls
from guidsvc.telemetry.metrics import RequestMetrics
from tests.support.certificates import Certificate
from tests.support.http_client import hang_up
from tests.support.turn_counter import TurnCounter

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Padding: %b\r\n\r\n" % (b"a" * 3_000)
CONNECTIONS = 4
LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]


class Now(RequestHandler):
    """Responds at once, also to a large body."""

    def get(self) -> None:
        self.write(b"now")

    def put(self) -> None:
        self.write(b"%d" % len(self.request.body))


class Client:
    """A TLS client that decides itself when it sends its records."""

    def __init__(self, certificate: Certificate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = certificate.trusting().wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self.reader, self.writer = reader, writer

    async def connect(self) -> None:
        """Complete the handshake."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.writer.write(self._outgoing.read())
                self._incoming.write(await self.reader.read(65_536))
        self.writer.write(self._outgoing.read())

    def records(self, parts: Iterable[bytes]) -> bytes:
        """Encrypt each part as a record of its own."""
        for part in parts:
            self._tls.write(part)
        return self._outgoing.read()

    async def read_until(self, end: bytes, count: int = 1) -> bytes:
        """Read until the response has the end so often."""
        received = b""
        while received.count(end) < count:
            try:
                received += self._tls.read(65_536)
            except ssl.SSLWantReadError:
                data = await self.reader.read(65_536)
                assert data, received
                self._incoming.write(data)
        return received


@asynccontextmanager
async def clients(certificate: Certificate, count: int) -> AsyncIterator[list[Client]]:
    """Serve `Now`, and connect clients to it."""
    context = Tls(*certificate.settings.values()).context
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        async with (
            serving_on([listening], Application([("/", Now)]), ServerHooks(RequestMetrics()), tls=context),
            asyncio.timeout(60),
        ):
            made = []
            for _ in range(count):
                made.append(Client(certificate, *await asyncio.open_connection(*listening.getsockname())))
                await made[-1].connect()
            yield made
            for each in made:
                await hang_up(each.writer)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_few_records_are_decrypted_in_a_loop_turn(
    certificate: Certificate, loop_factory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_turns, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(tls_relay, "RECORDS", 1)
    counter = TurnCounter()
    monkeypatch.setattr(tls_relay, "feed", counter.counted(tls_relay.feed, lambda tls, data: len(data)))

    async def flood() -> None:
        async with clients(certificate, CONNECTIONS) as flooding:
            data = [
                client.records(bytes([byte]) for byte in REQUEST[:1_000]) + client.records([REQUEST[1_000:]])
                for client in flooding
            ]
            async with counter.following_turns():
                for client, each in zip(flooding, data, strict=True):
                    client.writer.write(each)
                for client in flooding:
                    await client.read_until(b"now")

    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]  # makes a loop
        runner.run(flood())
    assert 1 <= counter.most <= (CONNECTIONS + 1) * len(REQUEST), "the first of each connection, and one in turn"


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_requests_in_many_small_records_are_answered(certificate: Certificate, loop_factory: object) -> None:
    async def ask() -> None:
        async with clients(certificate, 1) as (client,):
            client.writer.write(client.records(bytes([byte]) for byte in REQUEST * 3))
            await client.read_until(b"now", 3)
            body = b"x" * 60_000
            head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            pieces = [(head + body)[at : at + 50] for at in range(0, len(head + body), 50)]
            client.writer.write(client.records(pieces))
            await client.read_until(b"60000")

    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]  # makes a loop
        runner.run(ask())


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_records_that_arrive_in_any_pieces_are_answered(certificate: Certificate, loop_factory: object) -> None:
    """A header of a record may be cut, too."""
    random = Random(7)

    async def ask() -> None:
        async with clients(certificate, 1) as (client,):
            for _ in range(20):
                data = client.records([REQUEST[:40], REQUEST[40:]])
                while data:
                    size = random.choice((1, 3, 7, 500, 4_000))
                    client.writer.write(data[:size])
                    data = data[size:]
                    await asyncio.sleep(0)
                await client.read_until(b"now")

    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]  # makes a loop
        runner.run(ask())


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_client_that_sends_after_the_end_is_disconnected(
    certificate: Certificate, loop_factory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection closes when its client closes, too, or after 10 s, in which a client could send gigabytes."""
    monkeypatch.setattr(tls_relay, "CLOSING_BYTES", 100_000)

    async def send_on() -> None:
        async with clients(certificate, 1) as (client,):
            client.writer.write(client.records([REQUEST.replace(b"X-Padding", b"Connection: close\r\nX-Padding")]))
            await client.read_until(b"now")
            sent_bytes = 0
            with suppress(ConnectionError):
                while sent_bytes < 50_000_000:
                    client.writer.write(client.records([b"x" * 16_000]))
                    await client.writer.drain()
                    sent_bytes += 16_000
            assert sent_bytes < 20_000_000, "with what the kernel buffers"

    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]  # makes a loop
        runner.run(send_on())


def test_parts_hold_whole_headers_and_few_records() -> None:
    random = Random(3)
    for _ in range(200):
        sizes = [random.choice((0, 1, 22, 300, 16_401)) for _ in range(random.randrange(1, 60))]
        data = b"".join(b"\x17\x03\x03" + size.to_bytes(2) + bytes(size) for size in sizes)
        boundaries, pending, passed, records = RecordBoundaries(), b"", b"", 0
        at = 0
        while at < len(data) or pending:
            step = random.choice((1, 4, 5, 70, 20_000, 70_000))
            pending, at = pending + data[at : at + step], at + step
            while not boundaries.needs_more(pending):
                size, count = boundaries.part(memoryview(pending), 3)
                if not size:
                    break
                assert size <= PART_BYTES
                assert count <= 3
                passed, pending, records = passed + pending[:size], pending[size:], records + count
        assert passed == data
        assert records == len(sizes)
