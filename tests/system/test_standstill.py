"""A process that is paused for a while: the pause does not count towards the timeouts of its clients."""

import asyncio
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from guidsvc.server.ticks import TICK_SECONDS, Ticks
from tests.support.backing_servers import service

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
BODY = b'{"user": "a"}'
PUT = b"PUT /guid HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
SECONDS = 3
"""The timeouts of the service."""


def test_requests_received_during_a_standstill_are_served(tmp_path: Path) -> None:
    options = [f"--{name}-timeout={SECONDS}" for name in ("idle", "head", "body")]
    with ExitStack() as stack, service(tmp_path, *options) as running:

        def connect(first_bytes: bytes) -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 30))
            connection.sendall(first_bytes)
            return connection

        idle = [connect(HEAD + b"\r\n") for _ in range(6)]
        for connection in idle:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        started = [(connect(HEAD), b"\r\n"), (connect(PUT + BODY[:5]), BODY[5:])]
        connect(HEAD + b"\r\n").recv(4096)  # by then the service has read the earlier bytes
        running.pause()
        for connection in idle:
            connection.sendall(HEAD + b"\r\n")
        for connection, remaining_bytes in started:
            connection.sendall(remaining_bytes)
        time.sleep(SECONDS + 2)  # the pause must exceed the timeouts
        running.resume()
        for connection in [*idle, *(connection for connection, _ in started)]:
            assert connection.recv(4096).startswith(b"HTTP/1.1 20")


async def test_timeout_clock_advances_only_with_the_loop() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()  # read before the ticks, which start at the time of the loop
    ticks = Ticks()
    ticks_before = ticks.now
    for _ in range(5):
        await asyncio.sleep(0.05)
        ticks.advance()
    assert 0.2 < ticks.now - ticks_before <= loop.time() - started
    ticks_before = ticks.now
    time.sleep(2 * TICK_SECONDS + 1)  # noqa: ASYNC251  # the loop stands still
    assert ticks.advance() - ticks_before <= 2 * TICK_SECONDS
