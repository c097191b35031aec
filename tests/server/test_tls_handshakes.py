"""TLS handshakes take turns: few per turn of the event loop, alternating between client networks."""

import asyncio
import socket
import ssl
from contextlib import ExitStack

import pytest
import uvloop
from tornado.web import Application, RequestHandler

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.runtime.fairness import loop_turns
from guidsvc.server.server import serving_on
from guidsvc.server.tls import Tls
from guidsvc.telemetry.metrics import RequestMetrics
from tests.support.certificates import Certificate
from tests.support.client_hello import client_hello
from tests.support.turn_counter import TurnCounter

CLIENTS = 20


class Now(RequestHandler):
    """Responds at once."""

    def get(self) -> None:
        self.write(b"now")


LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_few_handshakes_are_made_in_a_loop_turn(
    certificate: Certificate, loop_factory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL calls back for each ClientHello, right before the server signs its response."""
    monkeypatch.setattr(loop_turns, "TURN_SECONDS", 0.0)
    counter, names = TurnCounter(), []
    context = Tls(*certificate.settings.values()).context

    def record_name(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = counter.counted(record_name)

    async def flood() -> None:
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
            for number in range(CLIENTS + 1):
                address, name = ("127.0.0.2", "many") if number < CLIENTS else ("127.0.0.3", "one")
                client = socket.create_connection(listening.getsockname(), 30, (address, 0))
                stack.enter_context(client).sendall(client_hello(name))
            async with (
                serving_on([listening], Application(), ServerHooks(RequestMetrics()), tls=context),
                counter.following_turns(),
            ):
                while len(names) <= CLIENTS:
                    await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:  # type: ignore[arg-type]  # makes a loop
        runner.run(asyncio.wait_for(flood(), 60))
    assert counter.most == 1
    assert names.index("one") <= 2, "another network has its turn after one of the first"


async def test_bytes_after_the_handshake_are_not_lost(certificate: Certificate) -> None:
    """The client sends its request together with the end of the handshake."""
    context = Tls(*certificate.settings.values()).context
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificate.trusting().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        async with (
            serving_on([listening], Application([("/", Now)]), ServerHooks(RequestMetrics()), tls=context),
            asyncio.timeout(60),
        ):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65_536))
            client.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            writer.write(outgoing.read())
            received = b""
            while b"now" not in received:
                incoming.write(await reader.read(65_536))
                try:
                    received += client.read(65_536)
                except ssl.SSLWantReadError:
                    continue
            writer.transport.abort()
