"""Scheduled events of a real process: warnings, expiries, and trimming."""

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymongo
import pytest

from guidsvc.domain.events.schedule import MARGIN_SECONDS
from tests.support.backing_servers import Service, service, suspend
from tests.support.event_reader import LINES, Event, all_events, page, reading
from tests.support.http_client import Client

pytestmark = pytest.mark.slow

QUIET = "--no-access-log"
PAUSE_SECONDS = 30.0
"""Maximum delay of an event after its process was killed. On an idle machine it is 8 s, as a lease lasts 6 s."""


def guids(count: int) -> list[str]:
    """Return `count` GUIDs."""
    return [f"{number:032X}" for number in range(count)]


def types_of(events: list[Event], guid: str) -> list[str]:
    """Return the types of the events of a GUID."""
    return [event["type"].removeprefix("guid.") for event in events if event["guid"] == guid]


async def create_lease(client: Client, guid: str, ttl: int) -> int:
    """Create a GUID with this lifetime; return its expiry."""
    reply = await client.put(f"/guid/{guid}", {"user": "u", "ttl": ttl})
    assert reply.status == 201
    return int(reply.json["expire"])


async def until(running: Service, count: int, query: str) -> list[Event]:
    """Wait for `count` events, and return them."""
    client = Client(running.port)
    async with asyncio.timeout(60):
        while len(events := await all_events(client, query)) < count:
            await asyncio.sleep(0.1)
    await client.aclose()
    return events


async def test_expiry_without_renewal_is_one_event(tmp_path: Path) -> None:
    """No event comes before its second, and reads return 410 from that second on."""
    with service(tmp_path, QUIET) as running:
        client = Client(running.port)
        expiries = dict(
            zip(guids(60), await asyncio.gather(*(create_lease(client, guid, 3) for guid in guids(60))), strict=True)
        )
        renewed = set(guids(60)[::2])
        async with reading(running.port, "?type=guid.expired&follow=true&from=now&limit=30", LINES) as stream:
            await asyncio.sleep(max(0.0, min(expiries.values()) - 1 - time.time()))
            for guid in renewed:
                assert (await client.post(f"/guid/{guid}/renewal", {"ttl": 600})).json["renewed"]
            late, seen = [], Counter[str]()
            for _ in range(30):
                event = await stream.line()
                late.append(time.time() - expiries[event["guid"]])
                assert event["at"] == str(expiries[event["guid"]] * 1000)
                assert (await client.get(f"/guid/{event['guid']}")).status == 410
                seen[event["guid"]] += 1
        assert seen == Counter(expiries.keys() - renewed)
        assert min(late) >= 0
        assert len(await all_events(client, "?type=guid.expired")) == 30
        await client.aclose()


async def test_change_after_the_expiry_comes_after_its_event(tmp_path: Path) -> None:
    """This holds even if the process was suspended in between, so that the change races with the scheduler."""
    with service(tmp_path, QUIET) as running:
        client = Client(running.port)
        expiries = await asyncio.gather(*(create_lease(client, guid, 2) for guid in guids(20)))
        await asyncio.to_thread(suspend, running.process)
        await asyncio.sleep(max(0.0, max(expiries) + 1.5 - time.time()))
        renewals = [asyncio.create_task(client.put(f"/guid/{guid}", {})) for guid in guids(20)]
        await asyncio.sleep(0.1)
        running.process.send_signal(signal.SIGCONT)
        assert {(await renewal).status for renewal in renewals} == {200}
        await client.aclose()
        events = await until(running, 60, "?limit=500")
        for guid in guids(20):
            assert types_of(events, guid) == ["created", "expired", "renewed"]


@pytest.fixture
def four_processes(tmp_path: Path, mongo_url: str, redis_url: str) -> Iterator[list[Service]]:
    """Four processes on one MongoDB and one Redis."""
    with ExitStack() as stack:
        processes = []
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            options = [QUIET, "--store-url", mongo_url, "--cache-url", redis_url]
            processes.append(stack.enter_context(service(folder, *options)))
        yield processes


async def is_sequencer(running: Service) -> bool:
    """Return whether this process moves the events to the log."""
    client = Client(running.port)
    text = (await client.get("/metrics")).body.decode()
    await client.aclose()
    return "\nguidsvc_sequencer_lag_seconds" in text


async def kill_the_sequencer(four_processes: list[Service]) -> None:
    """Kill and restart the process that moves the events, or if there is none, the one that has run longest."""
    holders = [each for each in four_processes if await is_sequencer(each)]
    victim = (holders or four_processes)[0]
    four_processes.remove(victim)
    four_processes.append(victim)
    await asyncio.to_thread(victim.kill)
    await asyncio.to_thread(victim.start)


async def test_each_expiry_is_one_event_while_processes_are_killed(
    four_processes: list[Service], mongo_url: str
) -> None:
    """Of four processes, the one that holds a lease is killed every three seconds while GUIDs expire."""
    clients = [Client(each.port) for each in four_processes]
    leases = [(guid, 4 + index % 12) for index, guid in enumerate(guids(200))]
    turn = asyncio.Semaphore(20)  # all at once would take a busy machine longer than a request may

    async def create_lease_in_turn(index: int, guid: str, ttl: int) -> int:
        async with turn:
            return await create_lease(clients[index % 4], guid, ttl)

    puts = (create_lease_in_turn(index, guid, ttl) for index, (guid, ttl) in enumerate(leases))
    expiries = dict(zip(guids(200), await asyncio.gather(*puts), strict=True))
    holders = defaultdict[str, set[str]](set)
    with pymongo.MongoClient[dict[str, Any]](mongo_url) as mongo:
        while time.time() < max(expiries.values()):
            for document in mongo.get_default_database()["leases"].find():
                holders[document["_id"]].add(document["holder"])
            await asyncio.gather(kill_the_sequencer(four_processes), asyncio.sleep(3))
    for client in clients:
        await client.aclose()

    events = await until(four_processes[-1], 200, "?type=guid.expired&limit=500")
    assert Counter(event["guid"] for event in events) == Counter(guids(200))
    assert {event["guid"]: event["at"] for event in events} == {
        guid: str(expire * 1000) for guid, expire in expiries.items()
    }
    assert len(holders["sequencer"]) > 1
    assert len(holders["scheduler"]) > 1
    with pymongo.MongoClient[dict[str, Any]](mongo_url) as mongo:
        appended = mongo.get_default_database()["log"].find({"kind": "expired"})
        late_seconds = [(entry["appended"] - entry["at"]) / 1000 for entry in appended]
    assert len(late_seconds) == 200
    assert min(late_seconds) >= MARGIN_SECONDS
    assert max(late_seconds) < PAUSE_SECONDS


async def test_start_after_a_pause_logs_expiries_but_no_warnings(tmp_path: Path) -> None:
    with service(tmp_path, QUIET, "--warn-before", "1") as running:
        client = Client(running.port)
        operations = [{"guid": guid, "user": "u", "ttl": 5} for guid in guids(100)]
        reply = await client.post("/guid:batch", {"operations": operations})
        await asyncio.to_thread(running.kill)  # well before the first warning
        expiries = [int(result["record"]["expire"]) for result in reply.json["results"]]
        await client.aclose()
        await asyncio.sleep(max(0.0, max(expiries) + 1.5 - time.time()))  # the scheduler is a second behind
        await asyncio.to_thread(running.start)
        events = await until(running, 200, "?limit=500")
        assert Counter(event["type"] for event in events) == {"guid.created": 100, "guid.expired": 100}


async def test_each_warning_comes_once_before_the_expiry(tmp_path: Path) -> None:
    with service(tmp_path, QUIET, "--warn-before", "3s,1s") as running:
        client = Client(running.port)
        await asyncio.gather(create_lease(client, guids(2)[0], 7), create_lease(client, guids(2)[1], 3))
        events = await until(running, 6 + 1, "?limit=500&view=brief")
        await client.aclose()
    long, short = ([event for event in events if event["guid"] == guid] for guid in guids(2))
    assert [event.get("warning") for event in long] == [None, "3", "1", None]
    assert [event.get("warning") for event in short] == [None, "1", None]
    for event in (*long, *short):
        if event["type"] == "guid.expiring":
            assert 0 <= int(event["left"]) <= int(event["warning"])
            assert event["id"] == f"{event['guid']}-{event['version']}-expiring-{event['warning']}"


async def test_small_log_loses_old_events_and_rejects_no_write(tmp_path: Path) -> None:
    with service(tmp_path, QUIET, "--events-size", "64KiB") as running:
        client = Client(running.port)
        first = (await page(client))["next"]
        for start in range(0, 400, 50):
            puts = (client.put(f"/guid/{number:032X}", {"user": "u" * 200}) for number in range(start, start + 50))
            assert {reply.status for reply in await asyncio.gather(*puts)} == {201}
        async with asyncio.timeout(60):
            while (reply := await client.get(f"/events?cursor={first}")).status == 200:
                await asyncio.sleep(0.2)
        assert (reply.status, reply.json["reason"]) == (410, "trimmed")
        kept = await all_events(client)
        assert 0 < len(kept) < 400
        assert kept == (await page(client, f"?limit=500&cursor={reply.json['oldest']}"))["items"]
        assert (await page(client, f"?cursor={reply.json['now']}"))["items"] == []
        assert (await client.put("/guid/" + "F" * 32, {"user": "u"})).status == 201
        assert len((await page(client, f"?cursor={reply.json['now']}"))["items"]) == 1
        await client.aclose()
