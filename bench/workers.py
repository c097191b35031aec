"""One worker compared with two in one run: `python -m bench.workers`; needs wrk and two cores.

The load is 95 % reads and 5 % updates, by Zipf's law over 100,000 records, on SQLite, through Redis. wrk and Redis use
the same cores as the workers. To separate their shares, each set-up confines workers, Redis and wrk to the same cores:

    1 worker, all on one core      one core for everything
    1 worker, all on two cores     wrk and Redis run beside the worker and cost it nothing
    2 workers, all on two cores    twice the first; wrk and Redis take their share from the workers, as in the first

The ratio of the third to the first is the gain of one more core with one more worker: the aim is for this. The ratio
of the third to the second is the gain of a second worker on a machine of two cores that generates its own load. The CPU
time of the workers per request gives the gain on cores of their own. That is calculated and ignores waits, such as for
each other's commits to the SQLite file.
"""

import argparse
import resource
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench import records, wrk
from bench.running import Running, free_port, program, redis_binary, service

KEYS = 100_000
CONNECTIONS = 128
"""Enough for the system to distribute them evenly."""
AIM = 1.6


class SetUp(NamedTuple):
    """A number of workers, and the cores for all processes."""

    workers: int
    cores: str

    @property
    def name(self) -> str:
        """The name in the report."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{workers}, all on {'two cores' if ',' in self.cores else 'one core'}"


ALONE, ROOMY, BOTH = SET_UPS = SetUp(1, "0"), SetUp(1, "0,1"), SetUp(2, "0,1")


class Result(NamedTuple):
    """Requests a second; p50 and p99 in ms; CPU time per request in µs, by process."""

    rate: float
    p50: float
    p99: float
    service: float
    redis: float
    load: float


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    results: dict[SetUp, list[Result]] = defaultdict(list)
    with ExitStack() as stack:
        running = {set_up: stack.enter_context(_running(set_up)) for set_up in SET_UPS}
        for set_up in SET_UPS:
            records.put_in(running[set_up][0], 0, KEYS)
            _measured(set_up, *running[set_up], options.seconds)  # to warm up
        for _ in range(options.rounds):
            for set_up in SET_UPS:
                results[set_up].append(_measured(set_up, *running[set_up], options.seconds))
    print("\n".join(_report(results, options)))


@contextmanager
def _running(set_up: SetUp) -> Iterator[tuple[Running, Running]]:
    """Run the service with a Redis of its own inside the block."""
    with TemporaryDirectory() as folder:
        port = free_port()
        command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (
            program(command, port, Path(folder), core=set_up.cores) as redis,
            service(
                *("--workers", str(set_up.workers), "--cache-url", f"redis://127.0.0.1:{port}/0"), core=set_up.cores
            ) as running,
        ):
            yield running, redis


def _measured(set_up: SetUp, running: Running, redis: Running, seconds: int) -> Result:
    variables = {"KEYS": KEYS, "WRITES": 0.05}
    spent_before = _spent(running, redis)
    load = wrk.load(
        running.port, "/", seconds, script="mix", connections=CONNECTIONS, variables=variables, core=set_up.cores
    )
    if load.failed:
        raise RuntimeError(f"{set_up.name}: {load.failed} of {load.requests} failed")
    cpu_us = [
        (after - before) / load.requests * 1e6
        for before, after in zip(spent_before, _spent(running, redis), strict=True)
    ]
    return Result(load.rate, load.p50, load.p99, *cpu_us)


def _spent(running: Running, redis: Running) -> tuple[float, float, float]:
    """Return the CPU time in seconds that the service, Redis and the load generator have used."""
    load_usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # only wrk: the other children still run
    return running.cpu_seconds, redis.cpu_seconds, load_usage.ru_utime + load_usage.ru_stime


def _report(results: Mapping[SetUp, list[Result]], options: argparse.Namespace) -> Iterator[str]:
    rounds = f"medians of {options.rounds} rounds of {options.seconds} s each"
    yield f"`python -m bench.workers`: {rounds}, {CONNECTIONS} connections."
    yield ""
    yield "| set-up | a second, median (range) | p50, p99 in ms | CPU µs each: workers, Redis, wrk |"
    yield "|---|---|---|---|"
    medians = {
        set_up: Result(*map(statistics.median, zip(*rounds_of_set_up, strict=True)))
        for set_up, rounds_of_set_up in results.items()
    }
    for set_up, median in medians.items():
        rates = [result.rate for result in results[set_up]]
        yield (
            f"| {set_up.name} | {median.rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {median.p50:.2f}, "
            f"{median.p99:.2f} | {median.service:.1f}, {median.redis:.1f}, {median.load:.1f} |"
        )
    yield ""
    yield "| ratio | |"
    yield "|---|---|"
    ratio = medians[BOTH].rate / medians[ALONE].rate
    yield f"| 2 workers on two cores to 1 on one, all included | {ratio:.2f} (aim {AIM:g}{_missed(ratio)}) |"
    yield f"| 2 workers on two cores to 1 on the same two | {medians[BOTH].rate / medians[ROOMY].rate:.2f} |"
    alone = 2 * medians[ROOMY].service / medians[BOTH].service
    yield f"| 2 workers to 1 by CPU time a request, each on a core of its own (calculated) | {alone:.2f} |"


def _missed(ratio: float) -> str:
    return "" if ratio >= AIM else ", missed"


if __name__ == "__main__":
    main()
