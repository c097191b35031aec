"""`python -m tests.client --seeds 500`: 0 passed, 1 violated, 2 too few seeds in the time, or too little happened."""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.client.nemesis import Findings, run_seed
from tests.support.backing_servers import service

PARALLEL, STAGGER_SECONDS = 12, 0.5
"""How many seeds run at the same time, as each mostly waits for leases, and how long after each other they start."""

PATIENT = ("--no-access-log", "--queue-timeout", "60", "--request-timeout", "60")
"""A busy machine makes nothing fail."""


async def run_seeds(seeds: Iterable[int], port: int, deadline: float) -> tuple[Findings, int]:
    """Run seeds until the deadline; return what they found, and how many there were."""
    remaining, whole, count = iter(seeds), Findings(), 0

    async def run(number: int) -> None:
        nonlocal count
        await asyncio.sleep(number * STAGGER_SECONDS)
        for seed in until(deadline, remaining):
            whole.add(await run_seed(seed, port))
            count += 1

    await asyncio.gather(*(run(number) for number in range(PARALLEL)))
    return whole, count


def until(deadline: float, seeds: Iterator[int]) -> Iterator[int]:
    """Yield seeds until a time of the monotonic clock."""
    for seed in seeds:
        if time.monotonic() > deadline:
            return
        yield seed


def main() -> int:
    """Run the seeds that the command line names, and say what they found."""
    parser = argparse.ArgumentParser(prog="python -m tests.client", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, metavar="N", help="how many seeds to run (%(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first of them (%(default)s)")
    parser.add_argument("--seconds", type=float, default=900, help="begin no seed after so long (%(default)s)")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), *PATIENT) as running:
        seeds = range(given.first, given.first + given.seeds)
        found, count = asyncio.run(run_seeds(seeds, running.port, begin + given.seconds))
    print("\n".join([*found.violations, *(f"{number:7} {what}" for what, number in sorted(found.counts.items()))]))
    print(f"{count} of {given.seeds} seeds in {time.monotonic() - begin:.0f} s, {len(found.violations)} violations")
    if found.violations:
        return 1
    return 0 if count == given.seeds and found.counts["connections cut"] and found.counts["loss: noticed"] else 2


if __name__ == "__main__":
    sys.exit(main())
