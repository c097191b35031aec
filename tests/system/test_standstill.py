"""A process that stands still for a while: its clients are not charged for the time."""

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
"""The time-outs of the service."""


def test_requests_received_during_a_standstill_are_served(tmp_path: Path) -> None:
    options = [f"--{name}-timeout={SECONDS}" for name in ("idle", "head", "body")]
    with ExitStack() as stack, service(tmp_path, *options) as running:

        def connect(sent: bytes) -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 30))
            connection.sendall(sent)
            return connection

        idle = [connect(HEAD + b"\r\n") for _ in range(6)]
        for each in idle:
            assert each.recv(4096).startswith(b"HTTP/1.1 200")
        begun = [(connect(HEAD), b"\r\n"), (connect(PUT + BODY[:5]), BODY[5:])]
        connect(HEAD + b"\r\n").recv(4096)  # by then the service has read what came before
        running.pause()
        for each in idle:
            each.sendall(HEAD + b"\r\n")
        for each, rest in begun:
            each.sendall(rest)
        time.sleep(SECONDS + 2)  # the pause has to be longer than the time-outs
        running.resume()
        for each in [*idle, *(each for each, _ in begun)]:
            assert each.recv(4096).startswith(b"HTTP/1.1 20")


async def test_timeout_clock_advances_only_with_the_loop() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()  # read before the ticks, which begin at the time of the loop
    ticks = Ticks()
    now = ticks.now
    for _ in range(5):
        await asyncio.sleep(0.05)
        ticks.advance()
    assert 0.2 < ticks.now - now <= loop.time() - begun
    now = ticks.now
    time.sleep(2 * TICK_SECONDS + 1)  # noqa: ASYNC251  # so that the loop stands still
    assert ticks.advance() - now <= 2 * TICK_SECONDS
