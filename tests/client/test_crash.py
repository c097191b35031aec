"""The service is killed in the middle of many creations: each of them makes exactly one record."""

import asyncio
from pathlib import Path

import pytest

from guidsvc_client import Record
from tests.support.backing_servers import service
from tests.support.client_in_thread import client_of

CREATIONS, CREATORS, KILLS = 400, 8, (80, 200, 320)


@pytest.mark.slow
async def test_killed_service_creates_each_record_once(kind: str, tmp_path: Path) -> None:
    made: list[Record] = []
    numbers = iter(range(CREATIONS))
    with service(tmp_path, "--no-access-log") as running:
        async with client_of(kind, running.url, retries=50) as client:

            async def create() -> None:
                for number in numbers:
                    made.append(await client.create(user="crash", metadata={"n": number}))  # noqa: PERF401  # counted meanwhile

            creators = [asyncio.create_task(create()) for _ in range(CREATORS)]
            for kill in KILLS:
                while len(made) < kill:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(running.kill)
                await asyncio.to_thread(running.start)
            await asyncio.gather(*creators)

            stored = {record.guid: record.metadata["n"] async for record in client.stream(user="crash", state="all")}
    assert sorted(stored.values()) == list(range(CREATIONS))
    assert {record.guid: record.metadata["n"] for record in made} == stored
