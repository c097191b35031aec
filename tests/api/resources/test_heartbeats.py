"""The cost and the times of heartbeats: writes per lease on each store and cache, and the spread of `renew_at`."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from random import Random
from typing import Any

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.factories import USER
from tests.support.http_client import Client, Reply
from tests.support.metrics import Samples, scrape, value

LEASES = 25
TTL, IF_BELOW = 60, 30
HALF_LIFE = TTL - IF_BELOW + 1
"""Seconds between two writes of a lease: the first heartbeat that finds less than half of its life left writes."""
START_MS = 1_900_000_000_000
"""A fixed time, so that the versions are the same in each run."""
SEED = 20_261_129
RENEWALS, LONG_TTL = 4_000, 600
EARLIEST, LATEST = LONG_TTL // 2, LONG_TTL * 7 // 10


def swaps(samples: Samples) -> float:
    """Return the number of writes of records."""
    return value(samples, "guidsvc_store_duration_seconds_count", operation="swap")


@pytest.mark.slow
@pytest.mark.each_backend
async def test_heartbeats_write_once_in_each_half_life(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """Each client sends one each second: this causes two writes per lease and minute."""
    clock.now = clock.seconds * 1000
    paths = [f"/guid/{number:032X}" for number in range(LEASES)]
    async with serving(**combination) as client:
        await asyncio.gather(*(client.put(path, {"user": USER, "ttl": TTL}) for path in paths))
        samples_before = await scrape(client)
        renewals: Counter[str] = Counter()
        for second in range(1, 2 * HALF_LIFE + 1):
            clock.advance(seconds=1)
            replies = await asyncio.gather(*(beat(client, path) for path in paths))
            assert {reply.status for reply in replies} == {200}
            is_due = second % HALF_LIFE == 0
            assert {reply.json["renewed"] for reply in replies} == {is_due}, second
            renewals.update(reply.json["guid"] for reply in replies if reply.json["renewed"])
        samples_after = await scrape(client)

    assert list(renewals.values()) == [2] * LEASES
    assert swaps(samples_after) - swaps(samples_before) == 2 * LEASES
    for outcome, count in (("renewed", 2 * LEASES), ("unchanged", (2 * HALF_LIFE - 2) * LEASES)):
        counts = [
            value(samples, "guidsvc_renewals_total", outcome=outcome) for samples in (samples_before, samples_after)
        ]
        assert counts[1] - counts[0] == count


async def beat(client: Client, path: str) -> Reply:
    """Send a heartbeat."""
    return await client.post(f"{path}/renewal", {"ttl": TTL, "if_below": IF_BELOW})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequential", "random"])
async def test_renewals_of_one_second_are_spread_evenly(serving: Serving, clock: FakeClock, kind: str) -> None:
    """Four thousand are spread evenly over a fifth of the life, and a repeated renewal returns the same time."""
    clock.now = START_MS
    random = Random(SEED)
    numbers = range(RENEWALS) if kind == "sequential" else [random.getrandbits(128) for _ in range(RENEWALS)]
    guids = [f"{number:032X}" for number in numbers]
    async with serving(batch_timeout=300) as client:
        await run(client, [{"guid": guid, "user": USER, "ttl": 5} for guid in guids])
        renew = [{"op": "renew", "guid": guid, "ttl": LONG_TTL} for guid in guids]
        renewed = await run(client, renew)
        repeated = await run(client, [operation | {"if_below": 1} for operation in renew])

    times = [int(result["renewal"]["renew_at"]) - START_MS // 1000 for result in renewed]
    assert [result["renewal"]["renewed"] for result in (renewed[0], repeated[0])] == [True, False]
    assert [int(result["renewal"]["renew_at"]) - START_MS // 1000 for result in repeated] == times
    assert (min(times), max(times)) == (EARLIEST, LATEST)
    assert_even(times, LATEST - EARLIEST + 1)


async def run(client: Client, operations: Sequence[dict[str, Any]]) -> list[Any]:
    """Run operations as a batch of lines, and return their results."""
    body = b"".join(json.dumps(operation).encode() + b"\n" for operation in operations)
    reply = await client.post("/guid:batch", body=body, headers={"Content-Type": "application/x-ndjson"})
    results = reply.lines
    assert {result["status"] for result in results} <= {200, 201}, results[0]
    return results


def assert_even(times: Sequence[int], values: int) -> None:
    """Check that all values are equally frequent: chi-squared is within four standard deviations of its mean."""
    expected = len(times) / values
    counts = Counter(times)
    chi_squared = sum((counts[time] - expected) ** 2 / expected for time in range(min(times), min(times) + values))
    freedom = values - 1
    assert abs(chi_squared - freedom) < 4 * sqrt(2 * freedom), chi_squared
