"""Time limits of a login: that of a request, and the presence of its client."""

import asyncio
from typing import Any

import pytest

from guidsvc.auth.authenticator import Authenticator
from guidsvc.domain import api_key as keys
from guidsvc.domain.caller import SCOPES, Caller
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.factories import GUID
from tests.support.http_client import Client, reset
from tests.support.metrics import read, value
from tests.support.secured_service import Credential, SecuredService

PATH = f"/guid/{GUID}"
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", PATH, {}),
    ("GET", "/guid", {}),
    ("PUT", PATH, {"json": {"user": "a"}}),
    ("PUT", f"{PATH}?view=full", {"json": {"user": "a"}}),
    ("POST", "/guid:batch", {"json": {"operations": [{"user": "a"}]}}),
]


class Gate:
    """Blocks the lookups of one key until the test sets `open`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open, self.passed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.text = keys.generate("mallory", SCOPES, 0)[1]
        look_up = Authenticator._look_up

        async def gated(authenticator: Authenticator, authorization: str) -> tuple[Caller, float]:
            if self.text in authorization:
                self.reached.set()
                await self.open.wait()
            try:
                return await look_up(authenticator, authorization)
            finally:
                if self.text in authorization:
                    self.passed.set()

        monkeypatch.setattr(Authenticator, "_look_up", gated)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.text}"}


async def count_cancelled(client: Client, monitor: Credential) -> float:
    """Return how many requests were cancelled because their client disconnected."""
    reply = await client.get("/metrics", headers=monitor.headers)
    assert reply.status == 200
    return value(read(reply.body.decode()), "guidsvc_requests_refused_total", reason="gone")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.mark.both_servers
@pytest.mark.parametrize(("method", "path", "options"), REQUESTS, ids=str)
async def test_login_has_the_time_limit_of_a_request(
    serving: Serving, gate: Gate, expected_logs: ExpectedLogs, method: str, path: str, options: dict[str, Any]
) -> None:
    expected_logs.add("request failed")
    async with serving(access="keys", request_timeout=0.3) as client:
        try:
            async with asyncio.timeout(20):
                reply = await client.ask(method, path, headers=gate.headers, **options)
        finally:
            gate.open.set()
        assert (reply.status, reply.json["code"]) == (503, "unavailable")


@pytest.mark.parametrize("line", [f"GET {PATH}", "GET /guid"])
async def test_login_of_a_gone_client_ends_its_request_and_counts(
    serving: Serving, sqlite_url: str, clock: FakeClock, gate: Gate, line: str
) -> None:
    """Tornado's own server notices the end of a connection only after the login."""
    async with serving(access="keys", login_limit="1/minute") as client:
        monitor = await SecuredService(client, sqlite_url, clock).create_key(scopes="monitor")
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"{line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {gate.text}\r\n\r\n".encode())
        async with asyncio.timeout(20):
            await gate.reached.wait()
        await reset(writer)
        try:
            async with asyncio.timeout(20):
                while not await count_cancelled(client, monitor):
                    await asyncio.sleep(0.01)
        finally:
            gate.open.set()
        await gate.passed.wait()
        reply = await client.get(PATH, headers={"Authorization": "Bearer nonsense"})
        assert reply.status == 429, "the failure of the login counts"
