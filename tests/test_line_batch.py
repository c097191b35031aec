"""A batch of lines beside others: what it takes of a turn of the event loop, and its end for lines that are wrong."""

import asyncio
import json
import sys
from types import FrameType
from typing import Any

import pytest

from guidsvc.web import line_batch
from guidsvc.web.batch_places import READERS
from guidsvc.web.line_batch import MAX_UNREADABLE, READ_AT_ONCE
from guidsvc.web.lines import Line, Lines
from guidsvc.web.operations import GROUP, Asked, read_line
from tests.client import Client
from tests.conftest import Serving
from tests.records import GUID, USER

BATCH = "/guid:batch"
NDJSON = {"Content-Type": "application/x-ndjson"}
GET = json.dumps({"op": "get", "guid": GUID}).encode() + b"\n"


async def test_batches_read_few_lines_in_a_turn_of_the_loop(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: all others wait for the length of a turn."""
    read = most = 0

    def counted(line: Line) -> Asked:
        nonlocal read, most
        read += 1
        most = max(most, read)
        return read_line(line)

    async def keep_turns() -> None:
        nonlocal read
        while True:
            read = 0
            await asyncio.sleep(0)

    monkeypatch.setattr(line_batch, "read_line", counted)
    async with serving() as client:
        turns = asyncio.create_task(keep_turns())
        batches = [client.post(BATCH, body=GET * 2 * GROUP, headers=NDJSON) for _ in range(24)]
        replies = await asyncio.gather(*batches)
        turns.cancel()
    assert {reply.status for reply in replies} == {200}
    assert READ_AT_ONCE <= most <= READERS * READ_AT_ONCE


# Lines that are not operations


async def test_a_batch_ends_after_a_thousand_lines_that_are_not_operations(client: Client) -> None:
    wrong = [b"x\n", b'{"user": ""}\n', b"[]\n", b'{"op": "get"}\n'] * (MAX_UNREADABLE // 4)
    body = GET * 3 + b"".join(wrong) + b'{"user": "never done"}\n' + b"x\n" * 100_000
    reply = await client.post(BATCH, body=body, headers=NDJSON)
    *done, last = reply.lines
    assert [result["status"] for result in done] == [404] * 3 + [400] * MAX_UNREADABLE
    assert (last["status"], last["problem"]["code"], last["problem"]["line"]) == (400, "invalid-request", 1004)
    assert "another batch" in last["problem"]["errors"][0]["detail"]
    assert (await client.get("/guid?user=never%20done")).json["items"] == []


async def test_the_last_of_a_thousand_such_lines_ends_nothing_if_it_is_the_last_of_all(client: Client) -> None:
    reply = await client.post(BATCH, body=b"x\n" * MAX_UNREADABLE + b"\n\n", headers=NDJSON)
    assert [result.get("line") or result["problem"]["line"] for result in reply.lines] == [
        *range(1, MAX_UNREADABLE + 1)
    ]


async def test_operations_that_fail_end_no_batch(client: Client) -> None:
    await client.put(f"/guid/{GUID}", {"user": USER})
    conflict = json.dumps({"guid": GUID, "user": USER, "if_none_match": "*"}).encode() + b"\n"
    absent = json.dumps({"op": "get", "guid": "E" * 32}).encode() + b"\n"
    reply = await client.post(BATCH, body=(conflict + absent) * MAX_UNREADABLE, headers=NDJSON)
    assert [result["status"] for result in reply.lines] == [412, 404] * MAX_UNREADABLE


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \t\n"])
def test_a_blank_line_costs_no_step(blank: bytes) -> None:
    """64 KiB of them are counted without a step of Python for each."""
    lines, steps = Lines(65_536), 0

    def step(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal steps
        steps += 1
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        found = list(lines.feed(blank * 20_000 + b"a\n"))
    finally:
        sys.settrace(before)
    assert found == [Line(20_001, b"a")]
    assert steps < 200
