"""Few requests without a known caller start per turn of the event loop, so they hardly delay other requests."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from guidsvc.api.base import near_paths
from guidsvc.api.base.handler import Handler
from guidsvc.api.execution.pipeline import PUBLIC_REQUESTS
from guidsvc.api.resources.health import LiveHandler, VersionHandler
from guidsvc.auth.authenticator import Authenticator
from guidsvc.http.headers.cors import Cors
from tests.conftest import Serving
from tests.support.factories import GUID
from tests.support.http_client import reset
from tests.support.metrics import read, value
from tests.support.turn_counter import TurnCounter

pytestmark = pytest.mark.both_servers

REQUESTS = 48
PAGE = {"Accept": "text/html"}  # so that a handler responds, and not the fast path


@pytest.mark.parametrize(
    ("method", "path", "patched", "name", "status"),
    [
        ("GET", "/nothing", near_paths, "explain", 404),
        ("OPTIONS", "/guid", Cors, "preflight", 204),
        ("GET", "/guid", Authenticator, "authenticate", 401),
        ("GET", f"/guid/{GUID}", Authenticator, "authenticate", 401),
        ("TRACE", "/livez", Handler, "write_error", 405),
        ("PROPFIND", "/livez", Handler, "write_error", 501),
        ("GET", "/livez", LiveHandler, "respond", 200),
        ("HEAD", "/version", VersionHandler, "respond", 200),
    ],
    ids=[
        "unknown path",
        "options",
        "list without key",
        "record without key",
        "unsupported method",
        "unknown method",
        "health page",
        "head of a page",
    ],
)
async def test_few_public_requests_begin_per_loop_turn(  # noqa: PLR0913, PLR0917  # parameters of each case
    serving: Serving,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    patched: object,
    name: str,
    status: int,
) -> None:
    """However many there are, because all other requests wait for the end of a turn."""
    counter = TurnCounter()
    function: Callable[..., Any] = getattr(patched, name)
    async with serving(access="keys", login_limit="") as client:
        monkeypatch.setattr(patched, name, counter.counted(function))
        async with counter.following_turns():
            replies = await asyncio.gather(*(client.ask(method, path, headers=PAGE) for _ in range(REQUESTS)))
    assert {reply.status for reply in replies} == {status}
    assert 1 <= counter.most <= PUBLIC_REQUESTS


async def test_public_request_whose_client_has_gone_is_forgotten(serving: Serving) -> None:
    async with serving() as client:
        for _ in range(3 * PUBLIC_REQUESTS):
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
            await reset(writer)
        replies = await asyncio.gather(*(client.get("/nothing") for _ in range(REQUESTS)))
        assert {reply.status for reply in replies} == {404}
        metrics = read((await client.get("/metrics")).body.decode())
        assert value(metrics, "guidsvc_requests_in_flight") == 1, "this one"
