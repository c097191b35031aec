"""The proxy of the nemesis: it injects faults into connections over real sockets."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.support.backing_servers import free_port
from tests.support.http_client import hang_up
from tests.support.network_proxy import Damage, Direction, Proxy, proxy
from tests.support.stream_server import stream_server

REPLY = b"0123456789"
SECONDS = 30.0


class Server:
    """Replies to each line with REPLY, and records the lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.ended = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(REPLY)
        except ConnectionError:
            pass
        self.ended += 1


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def tcp_proxy(server: Server) -> AsyncIterator[Proxy]:
    async with stream_server(server.serve) as port:
        async with proxy(port, random.Random(7)) as opened:
            yield opened
        await until(lambda: server.ended == len(server.writers))


@asynccontextmanager
async def client(tcp_proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and check that the connection works."""
    reader, writer = await asyncio.open_connection("127.0.0.1", tcp_proxy.port)
    writer.write(b"hello\n")
    assert await reader.readexactly(len(REPLY)) == REPLY
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def test_close_reaches_both_ends(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy):
        pass
    await until(lambda: server.ended == 1)
    async with client(tcp_proxy) as (reader, _):
        server.writers[-1].close()
        assert await reader.read() == b""


async def test_slow_connection_delays_both_directions(tcp_proxy: Proxy) -> None:
    delays = random.Random(7)
    async with client(tcp_proxy) as (reader, writer):
        start = asyncio.get_running_loop().time()
        with tcp_proxy.slow(0.3):
            writer.write(b"slowly\n")
            await reader.readexactly(len(REPLY))
        expected = delays.uniform(0, 0.3) + delays.uniform(0, 0.3)
        assert asyncio.get_running_loop().time() - start > expected * 0.9
        assert expected > 0.1


async def test_request_in_a_black_hole_arrives_late(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy) as (reader, writer):
        with tcp_proxy.black_hole(Direction.TO_SERVER):
            writer.write(b"late\n")
            await until(lambda: tcp_proxy.pending_pieces == 1)
            assert server.lines == [b"hello\n"]
        assert await reader.readexactly(len(REPLY)) == REPLY
        assert server.lines == [b"hello\n", b"late\n"]


async def test_delayed_request_arrives_after_its_client_gave_up(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy) as (_, writer):
        with tcp_proxy.black_hole(Direction.TO_SERVER):
            writer.write(b"late\n")
            await until(lambda: tcp_proxy.pending_pieces == 1)
            await hang_up(writer)
            assert server.lines == [b"hello\n"]
        await until(lambda: b"late\n" in server.lines)
        await until(lambda: server.ended == 1)


async def test_request_with_a_lost_reply_is_executed(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy) as (reader, writer):
        with tcp_proxy.black_hole(Direction.TO_CLIENT):
            writer.write(b"done\n")
            await until(lambda: tcp_proxy.pending_pieces == 1)
            assert server.lines == [b"hello\n", b"done\n"]
            reading = asyncio.create_task(reader.readexactly(len(REPLY)))
            await asyncio.sleep(0)
            assert not reading.done()
        assert await reading == REPLY


async def test_new_connection_enters_the_black_hole_too(tcp_proxy: Proxy, server: Server) -> None:
    with tcp_proxy.black_hole(*Direction):
        reader, writer = await asyncio.open_connection("127.0.0.1", tcp_proxy.port)
        writer.write(b"late\n")
        await until(lambda: tcp_proxy.pending_pieces == 1)
        assert server.lines == []
    assert await reader.readexactly(len(REPLY)) == REPLY
    await hang_up(writer)


async def test_reset_closes_both_ends(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy) as (reader, _):
        tcp_proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await until(lambda: server.ended == 1)
    async with client(tcp_proxy):
        assert tcp_proxy.resets == 1


async def test_reply_is_cut_in_the_middle(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy) as (reader, writer):
        with tcp_proxy.damaging(Damage.CUT):
            writer.write(b"done\n")
            assert await reader.readexactly(len(REPLY) // 2) == REPLY[: len(REPLY) // 2]
            with pytest.raises(ConnectionResetError):
                await reader.read()
        assert server.lines[-1] == b"done\n"


async def test_reply_is_dropped_after_execution(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy) as (reader, writer):
        with tcp_proxy.damaging(Damage.SWALLOWED):
            writer.write(b"done\n")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        assert server.lines[-1] == b"done\n"


async def test_lost_request_does_not_reach_the_server(tcp_proxy: Proxy, server: Server) -> None:
    async with client(tcp_proxy) as (reader, writer):
        with tcp_proxy.dropping():
            writer.write(b"not done\n")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        await until(lambda: server.ended == 1)
        assert server.lines == [b"hello\n"]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
async def test_replies_are_broken_at_random(tcp_proxy: Proxy, chance: float) -> None:
    async with client(tcp_proxy):
        with tcp_proxy.damaging(Damage.SWALLOWED, chance):
            swallowed = sum(tcp_proxy.choose_damage() is Damage.SWALLOWED for _ in range(1000))
        assert 1000 * chance - 100 <= swallowed <= 1000 * chance + 100
        assert tcp_proxy.choose_damage() is None


async def test_broken_replies_stay_within_their_limit(tcp_proxy: Proxy) -> None:
    with tcp_proxy.damaging(Damage.CUT, max_count=2):
        assert [tcp_proxy.choose_damage() for _ in range(4)] == [Damage.CUT, Damage.CUT, None, None]


async def test_connection_fails_without_a_server() -> None:
    async with proxy(free_port(), random.Random(7)) as opened:
        reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await hang_up(writer)
