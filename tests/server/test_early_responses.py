"""Responses that come before their request is complete, to a client that reads only once it has sent everything."""

import asyncio
import socket
import ssl
from contextlib import suppress

import pytest

from tests.conftest import Serving
from tests.support.certificates import Certificate
from tests.support.factories import GUID
from tests.support.http_client import chunk

pytestmark = pytest.mark.both_servers

PART = b" " * 65_536
SECONDS = 60
"""Time limit of each wait for the server."""
HEAD = f"PUT /guid/{GUID} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
BATCH = (
    "POST /guid:batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)
LINES = 300
PAUSE_SECONDS = 3
"""The longest wait of a client that sends on and on; the service pauses for at most a second."""
FILLING_LINES = b'{"guid":"%b","user":"a","metadata":{"x":"%b"}}\n' % (GUID.encode(), b"x" * 16_000)
FILLING_LINES += b'{"op":"get","guid":"%b"}\n' % GUID.encode() * 500
"""Lines whose results, of 16 KiB each, fill the space of a batch."""
MIB = 1024 * 1024


def send_all_then_read(
    port: int, head: bytes, parts: list[bytes], context: ssl.SSLContext | None, end: bytes = b"\r\n\r\n"
) -> bytes:
    """Send a request, which is never complete, and then read the response up to its `end`."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
        connection = plain if context is None else context.wrap_socket(plain, server_hostname="127.0.0.1")
        with connection:
            connection.sendall(head)
            for part in parts:
                connection.sendall(part)
            response = b""
            while end not in response and (received := connection.recv(65_536)):
                response += received
    return response


def send_until_stopped(port: int, head: bytes, part: bytes, context: ssl.SSLContext | None) -> int:
    """Send a request, and then `part` until the service reads no more, or 200 MiB. Return how many bytes were sent.

    The client reads no response.
    """
    sent_bytes = 0
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(PAUSE_SECONDS)
        plain.connect(("127.0.0.1", port))
        connection = plain if context is None else context.wrap_socket(plain, server_hostname="127.0.0.1")
        with connection, suppress(OSError):
            connection.sendall(head)
            while sent_bytes < 200 * MIB:
                connection.sendall(part)
                sent_bytes += len(part)
    return sent_bytes


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
async def test_client_that_sends_on_gets_the_413(
    serving: Serving, certificate: Certificate, *, is_secure: bool
) -> None:
    settings, context = (certificate.settings, certificate.trusting()) if is_secure else ({}, None)
    async with serving(**settings) as client:
        response = await asyncio.to_thread(send_all_then_read, client.port, HEAD.encode(), [PART] * 256, context)
    assert response.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
async def test_client_that_sends_on_gets_results_of_an_ended_batch(
    serving: Serving, certificate: Certificate, *, is_secure: bool
) -> None:
    """1,000 lines that are no operations end the batch. The service reads another 16 MiB, and then responds."""
    settings, context = (certificate.settings, certificate.trusting()) if is_secure else ({}, None)
    parts = [chunk(b'{"user": "a"}\n' * LINES), *[chunk(b"x\n" * 30_000)] * 300]
    async with serving(**settings) as client:
        response = await asyncio.to_thread(
            send_all_then_read, client.port, BATCH.encode(), parts, context, b"\r\n0\r\n\r\n"
        )
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.count(b'"status":201') == LINES
    assert response.count(b'"status":400') >= 1000


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
async def test_little_is_read_after_a_rejection(serving: Serving, certificate: Certificate, *, is_secure: bool) -> None:
    """The connection closes within two seconds, in which a client could send gigabytes."""
    settings, context = (certificate.settings, certificate.trusting()) if is_secure else ({}, None)
    head = HEAD.replace("99999999", "9999999999").encode()
    async with serving(**settings) as client:
        sent_bytes = await asyncio.to_thread(send_until_stopped, client.port, head, PART, context)
    assert sent_bytes < 64 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
async def test_little_is_read_while_results_are_unread(
    serving: Serving, certificate: Certificate, *, is_secure: bool
) -> None:
    """A batch has ended, as its results are full. Its client reads nothing, and sends on."""
    settings, context = (certificate.settings, certificate.trusting()) if is_secure else ({}, None)
    async with serving(temp_bytes_per_batch=MIB, batch_timeout=2, **settings) as client:
        head, blank = BATCH.encode() + chunk(FILLING_LINES), chunk(b" " * 60_000 + b"\n")
        sent_bytes = await asyncio.to_thread(send_until_stopped, client.port, head, blank, context)
    assert sent_bytes < 64 * MIB
