"""Accepted host names of requests, as a protection against DNS rebinding by web pages."""

import asyncio
from itertools import product
from pathlib import Path
from time import process_time

import pytest

from guidsvc.bootstrap.auth import accepted_hosts
from guidsvc.config import Settings
from guidsvc.errors import StartError
from guidsvc.http.headers.host import HostNames
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID
from tests.support.http_client import Client, Reply, hang_up, read_reply
from tests.support.secured_service import SecuredService

pytestmark = pytest.mark.both_servers

EVIL = "page.attacker.example"
LOCAL = [
    "localhost",
    "LOCALHOST:8888",
    "localhost.",
    "a.b.localhost:1",
    "127.0.0.1",
    "127.9.8.7:65535",
    "[::1]",
    "[::1]:80",
]
FOREIGN = [
    EVIL,
    f"{EVIL}:8888",
    "",
    ":8888",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "127.0.0.256",
    "127.1",
    "0.0.0.0",
    "10.0.0.5",
    "192.168.1.1:8888",
    "[::]",
    "[fe80::1]",
    "localhost:80:80",
    "localhost:x",
    ".localhost",
]
MALFORMED = [
    "evil@localhost",
    "localhost@evil.example",
    "localhost,evil.example",
    "localhost evil.example",
    "localhost#",
]
PATHS = [
    "/",
    "/guid",
    f"/guid/{GUID}",
    "/guid:batch",
    "/keys",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/livez",
    "/readyz",
    "/version",
    "/problems",
    "/problems/expired",
    "/nothing/here",
]


async def ask(client: Client, request: bytes) -> Reply:
    """Send raw bytes on a new connection; return the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(request)
    reply = await asyncio.wait_for(read_reply(reader, request.partition(b" ")[0].decode()), 30)
    await hang_up(writer)
    return reply


def is_misdirected(reply: Reply) -> bool:
    return (reply.status, reply.json["code"]) == (421, "misdirected-request")


async def test_loopback_name_is_served(serving: Serving) -> None:
    async with serving(hosts="") as client:
        for host, path in product(LOCAL, ("/livez", "/guid")):
            assert (await client.get(path, headers={"Host": host})).status == 200, host


async def test_other_host_name_is_rejected(serving: Serving) -> None:
    async with serving(hosts="") as client:
        for host, path in product(FOREIGN, ("/livez", f"/guid/{GUID}")):
            assert is_misdirected(await client.get(path, headers={"Host": host})), host


@pytest.mark.parametrize("host", [*FOREIGN, *MALFORMED])
def test_malformed_host_name_is_rejected(host: str) -> None:
    assert not HostNames([]).has(host)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
async def test_foreign_host_name_is_rejected_for_every_path_and_method(serving: Serving, method: str) -> None:
    headers = {"Host": f"{EVIL}:8888", "Origin": f"http://{EVIL}:8888", "Sec-Fetch-Site": "same-origin"}
    async with serving(hosts="", public_metrics=True, cors_origins=f"http://{EVIL}:8888") as client:
        for path in [*PATHS, "*"] if method == "OPTIONS" else PATHS:
            body = {"user": "x"} if method in {"PUT", "POST"} else None
            reply = await client.ask(method, path, headers=headers, json=body)
            assert reply.status == 421, path
            assert method == "HEAD" or is_misdirected(reply)
        assert (await client.get(f"/guid/{GUID}")).status == 404, "nothing was written"


async def test_host_name_is_checked_on_every_read_path(serving: Serving) -> None:
    """Reads from the cache, through the parser and from remembered bytes, mixed with reads of accepted hosts."""
    async with serving(hosts="") as client:
        await client.put(f"/guid/{GUID}", {"user": "x"})
        for _ in range(3):
            assert (await client.get(f"/guid/{GUID}")).status == 200
            assert is_misdirected(await client.get(f"/guid/{GUID}", headers={"Host": EVIL}))
            assert is_misdirected(await client.get(f"/guid/{GUID}", headers={"Host": "127.0.0.1.x"}))


@pytest.mark.parametrize(("authority", "status"), [("localhost:8888", 200), ("127.0.0.1", 200), (EVIL, 421), ("", 421)])
async def test_authority_of_absolute_target_is_checked_too(serving: Serving, authority: str, status: int) -> None:
    async with serving(hosts="") as client:
        for path in ("/livez", "/guid?limit=1", "?x=1" if status == 421 else "/"):
            reply = await ask(client, f"GET http://{authority}{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert reply.status == status
        reply = await ask(client, f"GET http://localhost/livez HTTP/1.1\r\nHost: {EVIL}\r\n\r\n".encode())
        assert is_misdirected(reply)


async def test_http_1_0_needs_no_host(serving: Serving) -> None:
    async with serving(hosts="") as client:
        assert (await ask(client, b"GET /livez HTTP/1.0\r\n\r\n")).status == 200
        assert is_misdirected(await ask(client, f"GET /livez HTTP/1.0\r\nHost: {EVIL}\r\n\r\n".encode()))


async def test_configured_names_are_served_beside_loopback(serving: Serving) -> None:
    async with serving(hosts="registry.example, 10.0.0.5,[2001:db8::1]") as client:
        for host in ("registry.example", "Registry.Example:80", "10.0.0.5", "[2001:DB8::1]:8888", "localhost"):
            assert (await client.get("/livez", headers={"Host": host})).status == 200
        for host in ("registryXexample", "x.registry.example", "10.0.0.50"):
            assert is_misdirected(await client.get("/livez", headers={"Host": host}))


async def test_any_host_name_is_served_where_keys_are_required(
    serving: Serving, sqlite_url: str, clock: FakeClock
) -> None:
    """A web page has no key, and behind a proxy the service does not know its public names."""
    async with serving(access="keys", hosts="") as client:
        alice = await SecuredService(client, sqlite_url, clock).key_client("alice")
        assert (await alice.ask("GET", "/guid", headers={"Host": EVIL})).status == 200
    async with serving(access="keys", hosts="registry.example") as client:
        alice = await SecuredService(client, sqlite_url, clock).key_client("alice")
        assert is_misdirected(await alice.ask("GET", "/guid", headers={"Host": EVIL}))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, []),
        ({"host": "::1"}, []),
        ({"host": "127.0.0.2", "access": "off"}, []),
        ({"host": "localhost", "hosts": "a"}, ["a"]),
        ({"access": "keys"}, None),
        ({"access": "keys", "hosts": "a,b"}, ["a", "b"]),
        ({"host": "0.0.0.0", "access": "off"}, None),
        ({"host": "0.0.0.0", "access": "off", "hosts": "a"}, ["a"]),
        ({"unix_socket": "s"}, None),
        ({"unix_socket": "s", "hosts": "a"}, ["a"]),
    ],
)
def test_checked_names_depend_on_the_listening_address(settings: dict[str, str], names: list[str] | None) -> None:
    assert accepted_hosts(Settings(_env_file=None, **settings)) == names  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize("name", ["http://a", "a:80", "a/b", "*", "a..b", "ä", ".a"])
def test_invalid_host_name_setting_stops_the_start(name: str) -> None:
    with pytest.raises(StartError, match=r"^hosts: "):
        HostNames([name])


def test_long_host_name_is_checked_in_linear_time() -> None:
    names = HostNames(["a.example"])
    start = process_time()
    for host in ("a." * 30_000, "a" * 60_000, "-" * 60_000, "127." * 15_000, "localhost." * 6_000):
        assert not names.has(host + "x")
        assert names.has(f"a.{host}x.localhost".replace("..", "."))
    assert process_time() - start < 1.0


async def test_any_host_name_is_served_over_a_unix_socket(serving: Serving, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    async with serving(unix_socket=str(socket), hosts=""):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(f"GET /livez HTTP/1.1\r\nHost: {EVIL}\r\n\r\n".encode())
        assert (await read_reply(reader, "GET")).status == 200
        await hang_up(writer)
