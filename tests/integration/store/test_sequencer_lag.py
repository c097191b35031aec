"""The lag of the sequencer, which an alert monitors: it grows during any fault of the sequencer."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from guidsvc.store.mongo.store import open_mongo
from guidsvc.telemetry.metrics import StoreMetrics
from tests.support.factories import record
from tests.support.mongo_proxy import MongoProxy

WAIT_SECONDS = 20.0
WRITES = "insert", "findAndModify"
READS = "find", "aggregate"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("dropped_commands", [WRITES[:1], WRITES[1:]], ids=["log", "lease"])
async def test_lag_is_the_age_of_the_oldest_entry(
    proxied_mongo: MongoProxy, dropped_commands: tuple[str, ...], expected_logs: Any
) -> None:
    expected_logs.add("event sequencer failing")
    meter, now = StoreMetrics(), time.time_ns() // 1_000_000
    async with open_mongo(
        f"mongodb://127.0.0.1:{proxied_mongo.port}/guidsvc?directConnection=true", timeout_ms=1000, meter=meter
    ) as store:
        current = record(now)
        await store.records.swap(None, current)
        await until(lambda: meter.sequencer_lag_seconds == 0)
        with proxied_mongo.dropping(*dropped_commands):
            started = time.monotonic()
            while (meter.sequencer_lag_seconds or 0) <= 2:
                assert time.monotonic() < started + WAIT_SECONDS
                new = current.model_copy(update={"version": current.version + 1, "user": f"user {current.version}"})
                assert await store.records.swap(current, new)
                current = new
                await asyncio.sleep(0.5)
            assert (meter.sequencer_lag_seconds or 0) <= time.monotonic() - started
        await until(lambda: meter.sequencer_lag_seconds == 0)
        assert await store.events.newest() == current.version - now + 1


async def test_lag_grows_while_mongodb_cannot_be_read(proxied_mongo: MongoProxy, expected_logs: Any) -> None:
    expected_logs.add("event sequencer failing")
    meter, now = StoreMetrics(), time.time_ns() // 1_000_000
    async with open_mongo(
        f"mongodb://127.0.0.1:{proxied_mongo.port}/guidsvc?directConnection=true", timeout_ms=1000, meter=meter
    ) as store:
        await store.records.swap(None, record(now))
        await until(lambda: meter.sequencer_lag_seconds == 0)
        with proxied_mongo.dropping(*WRITES, *READS):
            await until(lambda: (meter.sequencer_lag_seconds or 0) > 3)
        await until(lambda: meter.sequencer_lag_seconds == 0)
