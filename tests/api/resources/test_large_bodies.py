"""Only a few large bodies are decoded per turn of the event loop, so they hardly delay other requests."""

import asyncio
import json

import pytest

from guidsvc.api.parsing import body
from guidsvc.runtime.fairness.decoding_turns import READERS
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID, USER
from tests.support.secured_service import SecuredService
from tests.support.turn_counter import TurnCounter

pytestmark = pytest.mark.both_servers

REQUESTS = 48
METADATA = {"x": "x" * body.SMALL_BYTES}
JSON = "application/json"
NDJSON = "application/x-ndjson"
RECORD = {"user": USER, "metadata": METADATA}
OPERATION = {"op": "get", "guid": GUID, "if_match": f'"{"x" * 1000}"'}


@pytest.mark.parametrize("ending", ["", "}"], ids=["valid", "invalid"])
@pytest.mark.parametrize(
    ("method", "path", "media_type", "document"),
    [
        ("PUT", f"/guid/{GUID}", JSON, RECORD),
        ("PATCH", f"/guid/{GUID}", JSON, {"metadata": METADATA}),
        ("PUT", f"/guid/{GUID}?view=full", JSON, RECORD),
        ("POST", "/guid", JSON, RECORD),
        ("POST", "/keys", JSON, {"owner": "bob", "note": "x" * body.SMALL_BYTES}),
        ("POST", "/guid:batch", JSON, {"operations": [OPERATION] * 5}),
        ("POST", "/guid:batch", NDJSON, RECORD),
    ],
    ids=["put", "patch", "handler", "creation", "key", "document", "line"],
)
async def test_few_large_bodies_are_decoded_per_loop_turn(  # noqa: PLR0913, PLR0917  # of each case
    serving: Serving,
    sqlite_url: str,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    media_type: str,
    document: object,
    ending: str,
) -> None:
    """However many there are, because all other requests wait for the end of a turn."""
    counter = TurnCounter()
    text = (json.dumps(document) + ending).encode()
    async with serving(access="keys") as client:
        caller = await SecuredService(client, sqlite_url, clock).key_client(scopes="read write admin")
        assert (await caller.ask("PUT", f"/guid/{GUID}", json={"user": USER})).status == 201
        monkeypatch.setattr(body, "decode", counter.counted(body.decode))
        async with counter.following_turns():
            replies = await asyncio.gather(
                *(caller.ask(method, path, body=text, headers={"Content-Type": media_type}) for _ in range(REQUESTS))
            )
    assert {reply.status for reply in replies} <= {200, 201, 400}
    assert 1 <= counter.most <= READERS
