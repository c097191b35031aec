"""Only a few large bodies are decoded per turn of the event loop, so they hardly delay other requests."""

import asyncio
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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


# The search for the operations


def elements_by_character(text: bytes) -> list[tuple[int, int]]:
    """Return the objects and lists at the third level, found character by character."""
    elements, depth, start, in_string, escaped = [], 0, 0, False, False
    for offset, character in enumerate(text.decode("latin-1")):
        if in_string:
            in_string, escaped = escaped or character != '"', not escaped and character == "\\"
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            start = offset if depth == 3 else start
        elif character in "]}":
            depth -= 1
            if depth == 2:
                elements.append((start, offset + 1))
    return elements


@given(st.text(alphabet='[]{}"\\a ', max_size=60), st.integers(1, 9))
@example('{"a":[{"b":"' + "c" * 20 + '"},{"d":"\\"' + "\\\\" * 9 + '"}]}', 4)
@settings(max_examples=300)
def test_search_in_parts_finds_the_same_operations(text: str, part_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "MAX_BYTES", part_bytes)
        found = body._elements(text.encode(), 1_000)
    assert found == elements_by_character(text.encode())


class Spy:
    """A pattern that notes the largest text of a match."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self.most = 0

    def match(self, text: bytes, start: int, end: int) -> re.Match[bytes] | None:
        found = self._pattern.match(text, start, end)
        assert found is not None
        self.most = max(self.most, found.end() - start)
        return found


@pytest.mark.parametrize("filling", [b'""', b'"a":1,', b'\\"', b" ", b'"' + b"a" * 100_000 + b'",'])
def test_no_search_is_longer_than_an_operation(monkeypatch: pytest.MonkeyPatch, filling: bytes) -> None:
    """A search keeps the event loop from running, although it is in another thread."""
    outside, inside = Spy(body._OUTSIDE), Spy(body._IN_STRING)
    monkeypatch.setattr(body, "_OUTSIDE", outside)
    monkeypatch.setattr(body, "_IN_STRING", inside)
    for start in b'{"operations":[],', b'{"operations":[{', b'{"operations":["', b'{"operations":[{"a":"':
        body._elements(start + filling * (1_000_000 // len(filling)), 1_000)
    assert 0 < outside.most <= body.MAX_BYTES
    assert inside.most <= body.MAX_BYTES
