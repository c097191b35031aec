"""One client cannot exhaust the connections or the memory of the service: each client network has a share."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from guidsvc.server.client_networks import ClientNetwork, ClientNetworks
from tests.conftest import ExpectedLogs, Serving
from tests.support.certificates import Certificate
from tests.support.factories import GUID
from tests.support.http_client import Client, hang_up, read_reply

MIB = 1024 * 1024
LIMIT = 40
ATTACKER = "127.0.0.2"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW_HEAD = b"GET /livez HTTP/1.1\r\n"
SLOW_BODY = b"PUT /guid/%b HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{" % GUID.encode()
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FakeConnection:
    """A connection that has waited for its client since a time, or executes a request."""

    def __init__(self, network: ClientNetwork, waiting_since: float | None) -> None:
        self.network = network
        self.waiting_since = waiting_since


@asynccontextmanager
async def connections(
    port: int, count: int, data: bytes = b"", *, address: str = ATTACKER, tls: ssl.SSLContext | None = None
) -> AsyncIterator[list[Pair]]:
    """Open connections from an address of this host, and send some bytes on each."""
    async with AsyncExitStack() as stack:
        pairs = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0), ssl=tls)
            stack.push_async_callback(hang_up, writer)
            writer.write(data)
            pairs.append((reader, writer))
        yield pairs


async def wait_for_connections(client: Client, count: int) -> None:
    """Wait until the service has this many connections in addition to that of this client."""
    async with asyncio.timeout(30):
        while f"guidsvc_connections {count + 1}".encode() not in (await client.get("/metrics")).body:
            await asyncio.sleep(0.02)


async def wait_for_closed(pairs: list[Pair], count: int) -> None:
    """Wait until exactly `count` of these connections have been closed."""
    async with asyncio.timeout(30):
        while sum(reader.at_eof() or reader.exception() is not None for reader, _ in pairs) < count:
            await asyncio.sleep(0.02)
    assert sum(reader.at_eof() or reader.exception() is not None for reader, _ in pairs) == count


@pytest.mark.parametrize("data", [b"", SLOW_HEAD, SLOW_BODY], ids=["idle", "head", "body"])
async def test_network_with_most_connections_gives_way(
    serving: Serving, expected_logs: ExpectedLogs, data: bytes
) -> None:
    expected_logs.add("too many connections")
    async with serving(max_connections=LIMIT) as client:
        assert (await client.get("/livez")).status == 200
        async with connections(client.port, LIMIT - 1, data) as pairs:
            await wait_for_connections(client, LIMIT - 1)
            for number in range(1, 4):
                async with connections(client.port, number, LIVEZ, address="127.0.0.3") as other_pairs:
                    for reader, _ in other_pairs:
                        assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).status == 200
            await wait_for_closed(pairs, 3)


async def test_others_get_in_while_the_largest_network_reconnects(
    serving: Serving, expected_logs: ExpectedLogs
) -> None:
    """Rejected attempts close no further connections and do not disturb the choice of those to be closed."""
    expected_logs.add("too many connections")
    async with serving(max_connections=LIMIT) as client:
        assert (await client.get("/livez")).status == 200
        async with AsyncExitStack() as stack:
            pairs = await stack.enter_async_context(connections(client.port, LIMIT - 1))
            await wait_for_connections(client, LIMIT - 1)
            for number in range(1, 6):
                async with connections(client.port, 3, LIVEZ) as new_pairs:
                    replies = [await asyncio.wait_for(read_reply(reader, "GET"), 30) for reader, _ in new_pairs]
                assert {reply.status for reply in replies} == {503}
                other_network = connections(client.port, 1, LIVEZ, address=f"127.0.0.{10 + number}")
                ((reader, _),) = await stack.enter_async_context(other_network)
                assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).status == 200
                await wait_for_closed(pairs, number)


async def test_connection_over_the_share_of_its_network_gets_503(serving: Serving, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("too many connections")
    async with serving(max_connections=LIMIT) as client:
        assert (await client.get("/livez")).status == 200
        async with connections(client.port, LIMIT - 1) as pairs:
            await wait_for_connections(client, LIMIT - 1)
            async with connections(client.port, 1, LIVEZ) as ((reader, _),):
                assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).status == 503
            assert not any(reader.at_eof() for reader, _ in pairs)


async def test_incomplete_tls_handshakes_give_way(
    serving: Serving, certificate: Certificate, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("too many connections")
    settings = {"max_connections": LIMIT, "head_timeout": 60, **certificate.settings}
    async with serving(**settings) as client, connections(client.port, LIMIT) as pairs:
        context = certificate.trusting()
        async with connections(client.port, 3, LIVEZ, address="127.0.0.1", tls=context) as other_pairs:
            for reader, _ in other_pairs:
                assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).status == 200
        await wait_for_closed(pairs, 3)


def test_only_those_that_wait_for_their_clients_give_way() -> None:
    networks, large = ClientNetworks(), ClientNetwork("a")
    for waiting_since in (None, 7.0, 5.0, None, 6.0):  # None: a request is being executed
        networks.join(FakeConnection(large, waiting_since))  # type: ignore[arg-type]  # has all that `join` reads
    assert [victim.waiting_since for victim in networks.victims()] == [7.0, 6.0, 5.0]


async def test_bodies_of_one_network_leave_room_for_others(serving: Serving) -> None:
    """One network sends more than the budget without a complete request; others may still send large bodies."""
    body = b'{"user": "a", "metadata": {"a": "' + b"x" * 15_000 + b'"}}'
    head = b"PUT /guid/%b HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" % GUID.encode()
    large, small = head + b" " * 58_000, head + b" " * 2_500  # small enough for the share of a connection
    async with serving(max_incoming_bytes=MIB) as client, AsyncExitStack() as stack:
        pairs = await stack.enter_async_context(connections(client.port, 16, large))
        await wait_for_connections(client, 16)
        pairs += await stack.enter_async_context(connections(client.port, 60, small))
        await stack.enter_async_context(connections(client.port, 40, address="127.0.0.1"))
        await wait_for_connections(client, 116)
        for number in range(20):
            reply = await client.put(f"/guid/{number:032X}", body=body, headers={"Content-Type": "application/json"})
            assert reply.status == 201
        assert not any(reader.at_eof() for reader, _ in pairs)
