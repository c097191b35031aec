"""One worker and two, side by side in one run: `python -m bench.workers`; needs wrk and two cores.

The mix of 95 % reads and 5 % updates, by Zipf's law over 100,000 records, on SQLite, through Redis. wrk and Redis need
the processor too, and there are no cores but those of the workers. So that this can be told apart, everything of a
set-up, workers, Redis and wrk, is confined to the same cores:

    1 worker, all on one core      one core's worth of everything
    1 worker, all on two cores     what wrk and Redis do is beside the worker, and costs it nothing
    2 workers, all on two cores    twice the first; wrk and Redis take their share from the workers, as in the first

The third to the first is what a core more, with a worker more, gives, all included: that is aimed at. The third to the
second is what a second worker gives on a machine of two cores that makes its own load. And from the processor's time
that the workers alone spend on a request follows what they would do on cores of their own, if nothing else held them
up: a calculation, which knows nothing of what they wait for, such as each other's commits to the one SQLite file.
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
"""Enough that the system deals them out evenly."""
AIM = 1.6


class SetUp(NamedTuple):
    """So many workers, and everything on these cores."""

    workers: int
    cores: str

    @property
    def name(self) -> str:
        """What it is called."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{workers}, all on {'two cores' if ',' in self.cores else 'one core'}"


ALONE, ROOMY, BOTH = SET_UPS = SetUp(1, "0"), SetUp(1, "0,1"), SetUp(2, "0,1")


class Result(NamedTuple):
    """Requests a second; p50 and p99 in ms; µs of the processor for each request, by who spent them."""

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
        running = {each: stack.enter_context(_running(each)) for each in SET_UPS}
        for each in SET_UPS:
            records.put_in(running[each][0], 0, KEYS)
            _measured(each, *running[each], options.seconds)  # to warm up
        for _ in range(options.rounds):
            for each in SET_UPS:
                results[each].append(_measured(each, *running[each], options.seconds))
    print("\n".join(_report(results, options)))


@contextmanager
def _running(set_up: SetUp) -> Iterator[tuple[Running, Running]]:
    """Run the service, and a Redis of its own, inside."""
    with TemporaryDirectory() as folder:
        port = free_port()
        command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (
            program(command, port, Path(folder), core=set_up.cores) as redis,
            service(
                *("--workers", str(set_up.workers), "--cache-url", f"redis://127.0.0.1:{port}/0"), core=set_up.cores
            ) as ours,
        ):
            yield ours, redis


def _measured(set_up: SetUp, ours: Running, redis: Running, seconds: int) -> Result:
    variables = {"KEYS": KEYS, "WRITES": 0.05}
    before = _spent(ours, redis)
    found = wrk.load(
        ours.port, "/", seconds, script="mix", connections=CONNECTIONS, variables=variables, core=set_up.cores
    )
    if found.failed:
        raise RuntimeError(f"{set_up.name}: {found.failed} of {found.requests} failed")
    each = [(after - was) / found.requests * 1e6 for was, after in zip(before, _spent(ours, redis), strict=True)]
    return Result(found.rate, found.p50, found.p99, *each)


def _spent(ours: Running, redis: Running) -> tuple[float, float, float]:
    """Return the seconds of the processor that the service, Redis, and what was started to ask have spent."""
    asked = resource.getrusage(resource.RUSAGE_CHILDREN)  # wrk alone: the others are there still
    return ours.cpu_seconds, redis.cpu_seconds, asked.ru_utime + asked.ru_stime


def _report(results: Mapping[SetUp, list[Result]], options: argparse.Namespace) -> Iterator[str]:
    rounds = f"medians of {options.rounds} rounds of {options.seconds} s each"
    yield f"`python -m bench.workers`: {rounds}, {CONNECTIONS} connections."
    yield ""
    yield "| set-up | a second, median (range) | p50, p99 in ms | CPU µs each: workers, Redis, wrk |"
    yield "|---|---|---|---|"
    medians = {each: Result(*map(statistics.median, zip(*found, strict=True))) for each, found in results.items()}
    for each, median in medians.items():
        rates = [result.rate for result in results[each]]
        yield (
            f"| {each.name} | {median.rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {median.p50:.2f}, "
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
