"""The event feed of real processes: no event is lost, repeated or out of order, whatever fails."""

import asyncio
import json
import os
import random
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from tests.support.backing_servers import ROOT, Service, children_of, is_alive, service, wait_until
from tests.support.event_reader import LINES, SSE, Event, all_events, now, page, reading, until_streams
from tests.support.http_client import Client
from tests.support.supervised_service import workers
from tests.support.time_limit import within

pytestmark = pytest.mark.slow

GUIDS = [f"{number:032X}" for number in range(50)]
PATIENT = ROOT / "tests" / "support" / "patient_mongo.py"
"""On a busy machine, no batch of events would get into the log within the usual time limit."""
WRITERS, BATCHES, OPERATIONS = 4, 12, 40
"""Number of clients, of batches per client, and of operations per batch."""
CUTS = 50
"""Number of times that each reader is cut off."""
LAST = "F" * 32
"""A GUID that is created at the end. Events of other GUIDs may come after its event."""
LOG_SECONDS = 100
"""Time limit for all events. Another process takes over the lease of a killed process after 6 s."""


@pytest.fixture(params=["sqlite", "mongo"])
def crashing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service that the test kills: one process with SQLite, or two workers with MongoDB and Redis."""
    if request.param == "sqlite":
        with service(tmp_path, "--no-access-log") as running:
            yield running
    else:
        mongo_url, redis_url = map(request.getfixturevalue, ("mongo_url", "redis_url"))
        with workers(tmp_path, redis_url, "--store-url", mongo_url, program=PATIENT) as running:
            yield running


class WriteLoad:
    """Clients that create, update and delete the same GUIDs in batches, and record the acknowledged operations."""

    def __init__(self, running: Service) -> None:
        self._running = running
        self.versions: defaultdict[str, set[str]] = defaultdict(set)
        """The versions that some response has, by GUID."""
        self.created_users: set[str] = set()
        self.rejected_users: set[str] = set()
        """The users of rejected operations."""

    async def send_batches(self, writer: int) -> None:
        """Send batches. A batch without a response is not sent again."""
        draw = random.Random(writer)
        for batch in range(BATCHES):
            operations = [self._operation(draw, f"{writer}-{batch}-{number}") for number in range(OPERATIONS)]
            client = Client(self._running.port)
            try:
                reply = await client.post("/guid:batch", {"operations": operations})
                if reply.status != 503:  # of a worker that has not reached its store, or not in time
                    for operation, result in zip(operations, reply.json["results"], strict=True):
                        self._note(operation, result)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(0.1)
            await client.aclose()

    def is_in(self, events: Sequence[Event]) -> bool:
        """Return whether each acknowledged write has an event among these."""
        found = versions_in(events)
        return all(versions <= set(map(str, found[guid])) for guid, versions in self.versions.items())

    def _operation(self, draw: random.Random, mark: str) -> dict[str, str]:
        guid = draw.choice(GUIDS)
        kind = draw.random()
        if kind < 0.2:
            return {"op": "delete", "guid": guid}
        precondition = {"if_match": '"1"'} if kind < 0.3 else {}
        return {"guid": guid, "user": mark} | precondition

    def _note(self, operation: dict[str, str], result: dict[str, str | int]) -> None:
        if result["status"] in {200, 201}:
            self.versions[operation["guid"]].add(str(result["etag"]).strip('"'))
            self.created_users.add(operation["user"])
        elif 400 <= int(result["status"]) < 500 and "user" in operation:
            self.rejected_users.add(operation["user"])


async def kill_and_restart(running: Service, rounds: int) -> None:
    """Kill the service several times. If it has workers, kill one of them before that."""
    for _ in range(rounds):
        for pid in children_of(running.process.pid)[:1]:
            await asyncio.sleep(0.4)
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.4)
        await asyncio.to_thread(kill_with_workers, running)
        await asyncio.to_thread(running.start)


def kill_with_workers(running: Service) -> None:
    """Kill the service, and wait until it and its workers have exited.

    It stops before its workers are listed. Otherwise it might replace a killed one after that, which would keep the
    port. If one was killed during its start, the service exits by itself.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        running.pause()
    orphans = children_of(running.process.pid)
    running.kill()
    wait_until(lambda: not any(map(is_alive, orphans)), "the end of the workers")


class Follower:
    """A reader that is cut off at random times, and continues at its last cursor."""

    def __init__(self, running: Service, headers: dict[str, str], cursor: str, seed: int) -> None:
        self._running = running
        self._headers = headers
        self._draw = random.Random(seed)
        self.cursor = cursor
        self.events: list[Event] = []

    async def follow(self) -> None:
        """Read until cancelled."""
        cuts = 0
        while True:
            with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                cuts += 1
                await self._read(self._draw.randrange(1, 60) if cuts <= CUTS else None)
            await asyncio.sleep(0.01)

    async def _read(self, count: int | None) -> None:
        """Read up to `count` events."""
        is_sse = self._headers is SSE
        headers = SSE | {"Last-Event-ID": self.cursor} if is_sse else LINES
        query = "" if is_sse else f"?follow=true&cursor={self.cursor}"
        async with reading(self._running.port, query, headers) as stream:
            if stream.status == 503:  # a worker that has just started may not have reached its store
                return
            assert stream.status == 200
            async for text in stream.texts():
                self._take(text, is_sse=is_sse)
                count = None if count is None else count - 1
                if count == 0:
                    return

    def _take(self, text: str, *, is_sse: bool) -> None:
        if is_sse:
            fields = dict(line.split(": ", 1) for line in text.split("\n"))
            self.cursor = fields.get("id", self.cursor)
            if "data" in fields:
                self.events.append(json.loads(fields["data"]))
            return
        line = json.loads(text)
        self.cursor = line.pop("cursor")
        if line["type"] != "bookmark":
            self.events.append(line)


async def page_in_time(client: Client, query: str) -> Any:
    """Return a page of events. On a busy machine, the store may take longer than its time limit, which is a 503."""
    async with within(LOG_SECONDS, f"a page of events, /events{query}"):
        while (reply := await client.get(f"/events{query}")).status == 503:
            await asyncio.sleep(0.1)
    assert reply.status == 200, reply.body
    return reply.json


async def whole_feed(running: Service, load: WriteLoad) -> list[Event]:
    """Create the last GUID, and return all events once the log has its event and those of the acknowledged writes."""
    client = Client(running.port)
    only_once = {"If-None-Match": "*"}
    events: list[Event] = []
    cursor = ""
    async with within(LOG_SECONDS, "the events of the last GUID and of all acknowledged writes"):
        while (await client.put(f"/guid/{LAST}", {"user": "last"}, headers=only_once)).status not in {201, 412}:
            await asyncio.sleep(0.1)
        while not (any(event["guid"] == LAST for event in events) and load.is_in(events)):
            page = await page_in_time(client, f"?limit=500{cursor}")
            events += page["items"]
            cursor = f"&cursor={page['next']}"
            if not page["more"]:
                await asyncio.sleep(0.1)
    await client.aclose()
    return events


async def test_feed_is_complete_and_ordered_across_crashes(crashing: Service) -> None:
    """Each acknowledged write has one event, rejected ones have none, and readers get each event once."""
    client = Client(crashing.port)
    start = (await page_in_time(client, "?from=now"))["next"]
    await client.aclose()
    followers = [Follower(crashing, headers, start, seed) for seed, headers in enumerate((LINES, SSE, LINES))]
    tasks = [asyncio.create_task(each.follow()) for each in followers]
    load = WriteLoad(crashing)
    await asyncio.gather(kill_and_restart(crashing, 3), *(load.send_batches(writer) for writer in range(WRITERS)))
    await load.send_batches(WRITERS)
    events = await whole_feed(crashing, load)
    async with within(LOG_SECONDS, "the last event at each follower"):
        while any(len(follower.events) < len(events) for follower in followers):
            assert not any(task.done() for task in tasks), tasks
            await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    check_log(events, load)
    without_cursors = [{name: value for name, value in event.items() if name != "cursor"} for event in events]
    for follower in followers:
        assert follower.events[: len(events)] == without_cursors


def versions_in(events: Sequence[Event]) -> defaultdict[str, list[int]]:
    """Return the versions of each GUID that have events, in the order of these."""
    versions: defaultdict[str, list[int]] = defaultdict(list)
    for event in events:
        versions[event["guid"]].append(int(event["version"]))
    return versions


def check_log(events: Sequence[Event], load: WriteLoad) -> None:
    """Compare the log with the operations."""
    assert all(earlier < later for found in versions_in(events).values() for earlier, later in pairwise(found))
    users = {event["record"]["user"] for event in events if event["type"] in {"guid.created", "guid.updated"}}
    assert load.created_users <= users
    assert not load.rejected_users & users
    assert load.created_users
    assert load.rejected_users


async def test_cursor_of_a_rewound_store_is_gone(tmp_path: Path) -> None:
    """The restored store never had the events before the cursor. It has others under the same numbers."""
    path = tmp_path / "guidsvc.db"
    with service(tmp_path, "--no-access-log") as running:
        await write(running, range(20))
    shutil.copy(path, tmp_path / "copy")
    with service(tmp_path, "--no-access-log") as running:
        await write(running, range(20, 40))
        events_before = await events_of(running)
    for file in tmp_path.glob("guidsvc.db*"):
        file.unlink()
    shutil.copy(tmp_path / "copy", path)
    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        rewound = events_before[20:]
        for event in rewound:
            assert (await client.get(f"/events?cursor={event['cursor']}")).json["reason"] == "rewound"
        await write(running, range(100, 140))
        for event in rewound:
            reply = await client.get(f"/events?cursor={event['cursor']}")
            assert (reply.status, reply.json["reason"]) == (410, "rewound")
        assert len((await page(client, f"?cursor={events_before[19]['cursor']}"))["items"]) == 40, (
            "the cursor is from before the backup"
        )
        await client.aclose()


async def write(running: Service, numbers: range) -> None:
    """Create GUIDs, one after the other."""
    client = Client(running.port)
    for number in numbers:
        assert (await client.put(f"/guid/{number:032X}", {"user": f"user {number}"})).status == 201
    await client.aclose()


async def events_of(running: Service) -> list[Event]:
    """Return all events."""
    client = Client(running.port)
    events = await all_events(client)
    await client.aclose()
    return events


async def test_streams_of_many_callers_end_with_bookmarks(tmp_path: Path) -> None:
    """One stream over the limit is rejected, and a signal ends all streams within a second."""
    with service(tmp_path, "--no-access-log", "--max-streams", "160", "--hosts", "127.0.0.1") as running:
        client = Client(running.port)
        await write(running, range(1))
        cursor = await now(client)
        async with AsyncExitStack() as stack:
            hosts = [f"127.0.0.{number}" for number in range(2, 18) for _ in range(10)]
            streams = [
                await stack.enter_async_context(reading(running.port, "?from=now&follow=true", LINES, host=host))
                for host in hosts
            ]
            await until_streams(client, 160)
            reply = await client.get("/events", headers=SSE)
            assert (reply.status, reply.json["code"]) == (429, "too-many-streams")
            await client.aclose()
            started = perf_counter()
            running.process.send_signal(signal.SIGTERM)
            lines = await asyncio.gather(*(stream.lines() for stream in streams))
            shutdown_seconds = perf_counter() - started
            assert [each[-1]["type"] for each in lines] == ["bookmark"] * 160
            assert {each[-1]["cursor"] for each in lines} == {cursor}
            assert shutdown_seconds < 1
        assert await asyncio.to_thread(running.process.wait) == 0


async def test_waiting_request_is_answered_at_once(tmp_path: Path) -> None:
    """The best of several times counts, because the machine may be busy."""
    with service(tmp_path, "--no-access-log") as running:
        client, durations = Client(running.port), []
        for number in range(20):
            waiting = asyncio.create_task(page(client, "?from=now&wait=20"))
            await until_streams(client, 1)
            started = time.monotonic()
            await write(running, range(number, number + 1))
            assert len((await waiting)["items"]) == 1
            durations.append(time.monotonic() - started)
        await client.aclose()
    assert min(durations) < 0.1
