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

from tests.nemesis.cluster import QUOTA, WORKERS, Cluster, cluster, going_on
from tests.nemesis.faults import Nemesis
from tests.nemesis.load import KEYS, Notes, load, read_all
from tests.nemesis.verdict import Exit, Run, report, samples, write_histories
from tests.support.event_checker import check_events
from tests.support.event_log import whole_log
from tests.support.history import Operation, Read, Violation
from tests.support.history_checker import check
from tests.support.once_checker import Count, check_once, check_quota

LOOK_SECONDS = 0.5
"""How often the fence is looked at: in each mode it stays longer than this."""
COUNT_SECONDS = 0.1
"""How often the live records are counted, for the quota."""
HEALED_SECONDS = 60.0
TOLD = 10
"""So many violations are printed; the files have all."""


class FenceWatch:
    """Counts how often the fence went down and up again: its generation rises by two each time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._first: int | None = None
        self._last = 0

    @property
    def cycles(self) -> int:
        """How many there were since the first look."""
        return (self._last - (self._first or 0)) // 2

    async def look(self) -> None:
        """Look over and over, until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(LOOK_SECONDS)

    async def once(self) -> None:
        """Look; a store that does not answer now does so later."""
        try:
            generation = await asyncio.to_thread(self._cluster.database.fence)
        except OSError:
            return
        self._first = generation if self._first is None else self._first
        self._last = max(self._last, generation)


class QuotaWatch:
    """Counts the live records in the store itself."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.counts: list[Count] = []

    async def look(self) -> None:
        """Count over and over, until cancelled; a store that does not answer now does so later."""
        while True:
            with suppress(OSError):
                self.counts.append(Count(time.monotonic(), await asyncio.to_thread(self._cluster.database.live)))
            await asyncio.sleep(COUNT_SECONDS)


async def run(store: str, seconds: float, seed: int, folder: Path) -> Run:
    """Run it all for so long, and check what was seen."""
    rng = random.Random(seed)
    notes = Notes()
    async with cluster(folder, store, rng) as made:
        nemesis, fence, quota = Nemesis(made, random.Random(rng.random())), FenceWatch(made), QuotaWatch(made)
        await fence.once()
        start = time.monotonic()
        async with going_on(fence.look()), going_on(quota.look()), load(made.hosts, notes, rng):
            await nemesis.rage(seconds)
        seconds = time.monotonic() - start
        async with asyncio.timeout(HEALED_SECONDS):
            await read_all(made.hosts, notes, rng, WORKERS)
        await fence.once()
        history, violations = await asyncio.to_thread(_checked, notes, quota.counts, made)
        events = await whole_log(made.database.own_url, made.database.versions())
        violations += check_events(events, history, made.database.versions())
        restarts = sum(host.restarts for host in made.hosts)
    return Run(
        seconds,
        history,
        violations,
        levels=notes.levels,
        faults=nemesis.done,
        answers=notes.answers,
        cycles=fence.cycles,
        restarts=restarts,
        repeated=sum(len(request.attempts) > 1 for request in notes.requests),
        refused=sum(count for answer, count in notes.answers.items() if answer.endswith(" 403")),
        counts=len(quota.counts),
        events=len(events),
    )


def _checked(notes: Notes, counts: Sequence[Count], made: Cluster) -> tuple[list[Operation], list[Violation]]:
    """Return all that was seen, and what is wrong with it."""
    start = time.monotonic()
    records = made.database.records()
    end = time.monotonic()
    stored: dict[str, list[str]] = defaultdict(list)
    for guid, (_, mark) in records.items():
        stored[mark].append(guid)
    history = [*notes.history, *(write for request in notes.requests for write in request.writes(stored))]
    final = [
        Read(guid, start, end, "the store", *records.get(guid, (None, None)))
        for guid in sorted({*KEYS, *(operation.key for operation in history), *records})
    ]
    return history, [*check(history, final), *check_once(notes.requests, stored), *check_quota(counts, QUOTA)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, tell what happened, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--store", choices=["sqlite", "mongo"], default="sqlite")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the faults and of the load")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="guidsvc-nemesis-"))
    print(f"nemesis on {chosen.store} for {chosen.seconds:.0f} s, --seed {chosen.seed}, in {folder}", flush=True)
    done = asyncio.run(run(chosen.store, chosen.seconds, chosen.seed, folder))
    print(report(done))
    for violation in samples(done)[:TOLD]:
        print(violation)
    for path in write_histories(done, folder):
        print(f"history: {path}")
    if done.exit is not Exit.VIOLATED:
        shutil.rmtree(folder)
    return done.exit


if __name__ == "__main__":
    sys.exit(main())
