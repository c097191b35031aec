"""The memory of a TLS connection: it does not grow permanently by large reads."""

import asyncio
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

from guidsvc.server.listener import RECEIVE_BYTES, Listener, Tls
from guidsvc.server.tls import open_tls
from tests.support.backing_servers import Service, service
from tests.support.certificates import Certificate
from tests.support.http_client import hang_up
from tests.support.open_requests import TLS_CONNECTION_BYTES

CONNECTIONS = 200
BODY_BYTES = 600 * 1024
REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES + b"x" * BODY_BYTES


def resident_bytes(running: Service) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def ask(connection: ssl.SSLSocket, request: bytes) -> None:
    connection.sendall(request)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_connection_keeps_little_of_what_it_has_read(tmp_path: Path, certificate: Certificate) -> None:
    context = certificate.trusting()
    small = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    padded = small[:-2] + b"X-Padding: %b\r\n\r\n" % (b"a" * 15_000)
    with service(tmp_path, "--no-access-log", *certificate.flags) as running, ExitStack() as stack:
        connections = []
        for _ in range(CONNECTIONS):
            tcp_socket = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 30))
            connections.append(stack.enter_context(context.wrap_socket(tcp_socket, server_hostname="127.0.0.1")))
            ask(connections[-1], small)
        memory_before = resident_bytes(running)
        for connection in connections:
            ask(connection, REQUEST)
            connection.sendall(padded * 13)  # 200 KiB
            received = b""
            while received.count(b'"live"') < 13:
                received += connection.recv(65_536)
        assert resident_bytes(running) - memory_before < CONNECTIONS * 60 * 1024
        stack.close()


def test_memory_of_a_connection_is_in_the_sum_of_the_bounds(tmp_path: Path, certificate: Certificate) -> None:
    """Each receives much before the next one is opened, so that they leave holes in the heap."""
    context = certificate.trusting()
    with service(tmp_path, "--no-access-log", *certificate.flags) as running, ExitStack() as stack:
        memory_before = resident_bytes(running)
        for _ in range(CONNECTIONS):
            tcp_socket = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 30))
            ask(stack.enter_context(context.wrap_socket(tcp_socket, server_hostname="127.0.0.1")), REQUEST)
        assert resident_bytes(running) - memory_before < CONNECTIONS * TLS_CONNECTION_BYTES
        stack.close()


async def test_connection_from_before_readiness_is_bounded_too(certificate: Certificate) -> None:
    tls_files = open_tls(str(certificate.cert), str(certificate.key))
    assert tls_files is not None
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[asyncio.BaseTransport] = loop.create_future()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname(), 30))
        client.setblocking(False)
        tls = Listener(listener, lambda _: TransportReporter(accepted), lambda _: None, tls=Tls(tls_files.context, 30))
        stack.callback(tls.close)
        _, writer = await asyncio.open_connection(sock=client, ssl=certificate.trusting(), server_hostname="127.0.0.1")
        transport = await asyncio.wait_for(accepted, 30)
        buffer_bytes = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert buffer_bytes <= 2 * RECEIVE_BYTES
        await hang_up(writer)


class TransportReporter(asyncio.Protocol):
    """Passes on the transport of an accepted connection."""

    def __init__(self, accepted: "asyncio.Future[asyncio.BaseTransport]") -> None:
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._accepted.set_result(transport)
