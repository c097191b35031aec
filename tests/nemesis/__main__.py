"""`python -m tests.nemesis --seconds 600 --store sqlite --seed 7`: 0 passed, 1 violated, 2 proves nothing."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.nemesis.cluster import QUOTA, WORKERS, Cluster, cluster, running
from tests.nemesis.faults import Nemesis
from tests.nemesis.load import KEYS, Observations, load, read_all
from tests.nemesis.verdict import Exit, Run, report, samples, write_histories
from tests.support.event_checker import check_events
from tests.support.event_log import whole_log
from tests.support.history import Operation, Read, Violation
from tests.support.history_checker import check
from tests.support.once_checker import Count, check_once, check_quota
from tests.support.time_limit import within

FENCE_POLL_SECONDS = 0.5
"""The interval between reads of the fence; it stays in each mode for longer."""
COUNT_SECONDS = 0.1
"""The interval between counts of the live records, for the quota."""
HEALED_SECONDS = 120.0
MAX_PRINTED_VIOLATIONS = 10
"""The files have all violations."""


class FenceMonitor:
    """Counts the cycles of the fence: its generation rises by two in each."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._first: int | None = None
        self._latest = 0

    @property
    def cycles(self) -> int:
        """The cycles since the first poll."""
        return (self._latest - (self._first or 0)) // 2

    async def poll(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.poll_once()
            await asyncio.sleep(FENCE_POLL_SECONDS)

    async def poll_once(self) -> None:
        """Poll; if the store does not reply, a later poll will."""
        try:
            generation = await asyncio.to_thread(self._cluster.database.fence)
        except OSError:
            return
        self._first = generation if self._first is None else self._first
        self._latest = max(self._latest, generation)


class QuotaMonitor:
    """Counts the live records in the store itself."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.counts: list[Count] = []

    async def poll(self) -> None:
        """Count until cancelled; if the store does not reply, a later count will."""
        while True:
            with suppress(OSError):
                self.counts.append(Count(time.monotonic(), await asyncio.to_thread(self._cluster.database.live)))
            await asyncio.sleep(COUNT_SECONDS)


async def run(store: str, seconds: float, seed: int, folder: Path) -> Run:
    """Run the cluster under load and faults for this time, and check the history."""
    rng = random.Random(seed)
    observations = Observations()
    async with cluster(folder, store, rng) as cluster_:
        nemesis, fence, quota = (
            Nemesis(cluster_, random.Random(rng.random())),
            FenceMonitor(cluster_),
            QuotaMonitor(cluster_),
        )
        await fence.poll_once()
        start = time.monotonic()
        async with running(fence.poll()), running(quota.poll()), load(cluster_.hosts, observations, rng):
            await nemesis.run(seconds)
        seconds = time.monotonic() - start
        async with within(HEALED_SECONDS, "reads of all keys through each worker, after the faults"):
            await read_all(cluster_.hosts, observations, rng, WORKERS)
        await fence.poll_once()
        history, violations = await asyncio.to_thread(_check_all, observations, quota.counts, cluster_)
        events = await whole_log(cluster_.database.own_url, cluster_.database.versions())
        violations += check_events(events, history, cluster_.database.versions())
        restarts = sum(host.restarts for host in cluster_.hosts)
    return Run(
        seconds,
        history,
        violations,
        levels=observations.levels,
        faults=nemesis.injected,
        replies=observations.replies,
        cycles=fence.cycles,
        restarts=restarts,
        repeated=sum(len(request.attempts) > 1 for request in observations.requests),
        rejected=sum(count for reply, count in observations.replies.items() if reply.endswith(" 403")),
        counts=len(quota.counts),
        events=len(events),
    )


def _check_all(
    observations: Observations, counts: Sequence[Count], cluster_: Cluster
) -> tuple[list[Operation], list[Violation]]:
    """Return the history, and the violations in it."""
    start = time.monotonic()
    records = cluster_.database.records()
    end = time.monotonic()
    stored: dict[str, list[str]] = defaultdict(list)
    for guid, (_, mark) in records.items():
        stored[mark].append(guid)
    history = [*observations.history, *(write for request in observations.requests for write in request.writes(stored))]
    final = [
        Read(guid, start, end, "the store", *records.get(guid, (None, None)))
        for guid in sorted({*KEYS, *(operation.key for operation in history), *records})
    ]
    return history, [*check(history, final), *check_once(observations.requests, stored), *check_quota(counts, QUOTA)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--store", choices=["sqlite", "mongo"], default="sqlite")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the faults and of the load")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="guidsvc-nemesis-"))
    print(f"nemesis on {options.store} for {options.seconds:.0f} s, --seed {options.seed}, in {folder}", flush=True)
    result = asyncio.run(run(options.store, options.seconds, options.seed, folder))
    print(report(result))
    for violation in samples(result)[:MAX_PRINTED_VIOLATIONS]:
        print(violation)
    for path in write_histories(result, folder):
        print(f"history: {path}")
    if result.exit is not Exit.VIOLATED:
        shutil.rmtree(folder)
    return result.exit


if __name__ == "__main__":
    sys.exit(main())
