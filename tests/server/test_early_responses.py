"""Responses that come before their request is complete, to a client that reads only once it has sent everything."""

import asyncio
import socket
import ssl

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
