"""`python -m tests.simulation`: run seeds, or mutants; see `tests.simulation`."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from os import cpu_count

from tests.simulation import quota, quota_mutants
from tests.simulation.events import mutants as event_mutants
from tests.simulation.events import run as events
from tests.simulation.mutants import MUTANTS, Mutant, found_at
from tests.simulation.run import run
from tests.simulation.world import Result, World

QUOTA_SHARE, EVENTS_SHARE = 20, 40
"""A run of all worlds has one seed of the quota, and one of the event log, per this many seeds of the cache."""


@dataclass(frozen=True)
class Simulation:
    """A simulated world, its mutants, and the texts of its reports."""

    run: Callable[..., Result]
    found_at: Callable[[Mutant], int | None]
    mutants: Sequence[Mutant]
    chunk_size: int
    option: str
    """The option that selects it on the command line."""
    seed: str
    summary: str
    violations: str


CACHE = Simulation(
    run=run,
    found_at=found_at,
    mutants=MUTANTS,
    chunk_size=10,
    option="",
    seed="seed",
    summary="{seeds} seeds, {events} events in {seconds:.0f} s on {cores} cores",
    violations="violations",
)
QUOTA = Simulation(
    run=quota.run,
    found_at=quota_mutants.found_at,
    mutants=quota_mutants.MUTANTS,
    chunk_size=10,
    option="--quota ",
    seed="quota, seed",
    summary="quota: {seeds} seeds in {seconds:.0f} s",
    violations="quota violations",
)
EVENTS = Simulation(
    run=events.run,
    found_at=event_mutants.found_at,
    mutants=event_mutants.MUTANTS,
    chunk_size=1,
    option="--events ",
    seed="events, seed",
    summary="events: {seeds} seeds in {seconds:.0f} s",
    violations="event violations",
)


def main() -> int:
    """Run the simulation that the command line selects; return 1 if a violation was found or a mutant was not."""
    options = _options()
    World.raises_faults = not options.until_found
    if options.mutants:
        return int(sum(map(_run_mutants, (CACHE, QUOTA, EVENTS))) > 0)
    if options.quota:
        return _run(QUOTA, options)
    if options.events:
        return _run(replace(EVENTS, run=partial(events.run, faults=options.faults)), options)
    failed = _run(replace(CACHE, run=partial(run, faults=options.faults)), options)
    if options.seed is not None or options.until_found or options.faults:
        return failed
    shares = (QUOTA, options.seeds // QUOTA_SHARE), (EVENTS, options.seeds // EVENTS_SHARE)
    return int(any([failed, *(_run_seeds(simulation, range(seeds)) for simulation, seeds in shares)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="Simulate the caches of several processes."
    )
    parser.add_argument("--seeds", type=int, default=2000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument(
        "--faults", nargs="*", default=[], help="inject only these faults: slow_stores, flush, stragglers ..."
    )
    parser.add_argument("--trace", action="store_true", help="print each event of the seed")
    parser.add_argument("--quota", action="store_true", help="run the seeds in the simulation of the quota")
    parser.add_argument("--events", action="store_true", help="run the seeds in the simulation of the event log")
    parser.add_argument("--mutants", action="store_true", help="run each mutant until it is found")
    parser.add_argument("--until-found", action="store_true", help="stop at the first violation, and print its seed")
    return parser.parse_args()


def _run(simulation: Simulation, options: argparse.Namespace) -> int:
    """Run one seed, or several seeds, all of them or until the first violation."""
    if options.seed is not None:
        return _report(simulation, [simulation.run(options.seed, trace=options.trace)])
    seeds = range(options.first, options.first + options.seeds)
    return _run_until_found(simulation, seeds) if options.until_found else _run_seeds(simulation, seeds)


def _run_until_found(simulation: Simulation, seeds: Iterable[int]) -> int:
    failing_seed = next((seed for seed in seeds if simulation.run(seed).violations), None)
    if failing_seed is not None:
        print("found at seed", failing_seed)
    return int(failing_seed is not None)


def _run_seeds(simulation: Simulation, seeds: Iterable[int]) -> int:
    with ProcessPoolExecutor() as pool:
        return _report(simulation, pool.map(simulation.run, seeds, chunksize=simulation.chunk_size))


def _report(simulation: Simulation, results: Iterable[Result]) -> int:
    """Print the results of the seeds."""
    started, counts, seeds, events, failed = time.monotonic(), Counter[str](), 0, 0, 0
    for result in results:
        seeds, events, counts = seeds + 1, events + result.events, counts + result.counts
        if result.violations:
            failed += 1
            print(f"{simulation.seed} {result.seed}:", *result.violations[:3], sep="\n  ", flush=True)
            print(f"reproduce: python -m tests.simulation {simulation.option}--seed {result.seed} --trace")
    seconds, cores = time.monotonic() - started, cpu_count()
    summary = simulation.summary.format(seeds=seeds, events=events, seconds=seconds, cores=cores)
    print(f"{summary}: {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}")
    print(f"{simulation.violations}: in {failed} seeds")
    return int(failed > 0)


def _run_mutants(simulation: Simulation) -> int:
    """Run each mutant until it is found; return the number of mutants that were not found."""
    with ProcessPoolExecutor() as pool:
        found_seeds = pool.map(simulation.found_at, simulation.mutants)
        return sum(_is_missed(*each) for each in zip(simulation.mutants, found_seeds, strict=True))


def _is_missed(mutant: Mutant, found_seed: int | None) -> bool:
    where = "NOT FOUND" if found_seed is None else f"found at seed {found_seed}"
    print(f"{mutant.name:40} {where}, of {mutant.seeds}", flush=True)
    return found_seed is None


if __name__ == "__main__":
    sys.exit(main())
