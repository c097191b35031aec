"""Trusted proxies: which address counts as the client's."""

import json

import pytest

from guidsvc.errors import StartError
from guidsvc.http.headers.proxy import TrustedProxies
from tests.conftest import Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "x, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "1.2.3.4, x", "10.0.0.1"),
        ("10.0.0.1", 'fe80::1%"x', "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("unix", "1.2.3.4", "1.2.3.4"),
        ("9.9.9.9", "1.2.3.4", "9.9.9.9"),
        ("fe80::1%eth0", "1.2.3.4", "fe80::1%eth0"),
    ],
)
def test_client_is_the_rightmost_untrusted_address(peer: str, header: str | None, client: str) -> None:
    assert TrustedProxies(["10.0.0.0/8", "unix"]).client(peer, header) == client


def test_unnamed_proxies_are_not_trusted() -> None:
    assert TrustedProxies().client("127.0.0.1", "1.2.3.4") == "127.0.0.1"
    assert TrustedProxies(["10.0.0.0/8"]).client("unix", "1.2.3.4") == "unix"


def test_invalid_network_stops_the_start() -> None:
    with pytest.raises(StartError, match=r"^trusted_proxies: "):
        TrustedProxies(["10.0.0.1/8"])


async def ask_all(client: Client) -> None:
    """Send requests on every path that serves requests."""
    headers = {"X-Forwarded-For": "1.2.3.4"}
    for method, path in (("PUT", GUID), ("GET", GUID), ("GET", GUID), ("GET", "x"), ("GET", f"{GUID}?view=full")):
        body = {"user": USER} if method == "PUT" else None
        await client.ask(method, f"/guid/{path}", headers=headers, json=body)


@pytest.mark.parametrize(
    ("trusted", "remote"), [("127.0.0.1", "1.2.3.4"), ("10.0.0.0/8", "127.0.0.1"), ("", "127.0.0.1")]
)
async def test_log_names_the_client(
    serving: Serving, capsys: pytest.CaptureFixture[str], trusted: str, remote: str
) -> None:
    async with serving(trusted_proxies=trusted, access_log=True, log_format="json") as client:
        await ask_all(client)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"guidsvc.access"' in line]
    assert [line["remote"] for line in lines] == [remote] * 5
