"""`python -m tests.simulation`: run seeds, or mutants; see `tests.simulation`."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from os import cpu_count

from tests.simulation import quota, quota_mutants
from tests.simulation.events import mutants as event_mutants
from tests.simulation.events import run as events
from tests.simulation.mutants import MUTANTS, Mutant, found_at
from tests.simulation.run import Result, run
from tests.simulation.world import World

QUOTA_SHARE, EVENTS_SHARE = 20, 40
"""With so many seeds of the cache goes one of the quota, and one of the event log, where a run is of all."""


def main() -> int:
    """Run what the command line asks for; 1 if something was found, or a mutant was not."""
    options = _options()
    World.raises_faults = not options.until_found
    if options.mutants:
        return int(any([_mutants(), _quota_mutants(), _event_mutants()]))
    if options.quota:
        return _quota(options)
    if options.events:
        return _events(options)
    if options.seed is not None:
        return _told([run(options.seed, trace=options.trace, faults=options.faults)])
    seeds = range(options.first, options.first + options.seeds)
    if options.until_found:
        found = next((seed for seed in seeds if run(seed, faults=options.faults).violations), None)
        if found is not None:
            print("found at seed", found)
        return int(found is not None)
    with ProcessPoolExecutor() as pool:
        told = _told(pool.map(partial(run, faults=options.faults), seeds, chunksize=10))
        return (
            told
            if options.faults
            else int(
                any(
                    [
                        told,
                        _quota_told(pool.map(quota.run, range(options.seeds // QUOTA_SHARE))),
                        _events_told(pool.map(events.run, range(options.seeds // EVENTS_SHARE))),
                    ]
                )
            )
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate the cache of many.")
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--faults", nargs="*", default=[], help="nothing but these: slow_stores, flush, stragglers ...")
    parser.add_argument("--trace", action="store_true", help="print each event of it")
    parser.add_argument("--quota", action="store_true", help="run these seeds in the world of the quota")
    parser.add_argument("--events", action="store_true", help="run these seeds in the world of the event log")
    parser.add_argument("--mutants", action="store_true", help="run the mutants, each until it is found")
    parser.add_argument("--until-found", action="store_true", help="stop at the first violation, and print its seed")
    return parser.parse_args()


def _told(results: Iterable[Result]) -> int:
    """Print what became of the seeds."""
    started, counts, seeds, events, failed = time.monotonic(), Counter[str](), 0, 0, 0
    for result in results:
        seeds, events, counts = seeds + 1, events + result.events, counts + result.counts
        if result.violations:
            failed += 1
            print(f"seed {result.seed}:", *result.violations[:3], sep="\n  ", flush=True)
            print(f"again: python -m tests.simulation --seed {result.seed} --trace")
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{seeds} seeds, {events} events in {time.monotonic() - started:.0f} s on {cpu_count()} cores: {told}")
    print(f"violations: in {failed} seeds")
    return int(failed > 0)


def _quota(options: argparse.Namespace) -> int:
    """Run seeds in the world of the quota, all of them or until one is found."""
    if options.seed is not None:
        return _quota_told([quota.run(options.seed, trace=options.trace)])
    seeds = range(options.first, options.first + options.seeds)
    if options.until_found:
        found = next((seed for seed in seeds if quota.run(seed).violations), None)
        if found is not None:
            print("found at seed", found)
        return int(found is not None)
    with ProcessPoolExecutor() as pool:
        return _quota_told(pool.map(quota.run, seeds, chunksize=10))


def _quota_told(results: Iterable[quota.QuotaResult]) -> int:
    """Print what became of seeds of the quota."""
    started, counts, seeds, failed = time.monotonic(), Counter[str](), 0, 0
    for result in results:
        seeds, counts = seeds + 1, counts + result.counts
        if result.violations:
            failed += 1
            print(f"quota, seed {result.seed}:", *result.violations[:3], sep="\n  ", flush=True)
            print(f"again: python -m tests.simulation --quota --seed {result.seed} --trace")
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"quota: {seeds} seeds in {time.monotonic() - started:.0f} s: {told}")
    print(f"quota violations: in {failed} seeds")
    return int(failed > 0)


def _events(options: argparse.Namespace) -> int:
    """Run seeds in the world of the event log, all of them or until one is found."""
    if options.seed is not None:
        return _events_told([events.run(options.seed, trace=options.trace)])
    seeds = range(options.first, options.first + options.seeds)
    if options.until_found:
        found = next((seed for seed in seeds if events.run(seed).violations), None)
        if found is not None:
            print("found at seed", found)
        return int(found is not None)
    with ProcessPoolExecutor() as pool:
        return _events_told(pool.map(events.run, seeds, chunksize=1))


def _events_told(results: Iterable[events.EventResult]) -> int:
    """Print what became of seeds of the event log."""
    started, counts, seeds, failed = time.monotonic(), Counter[str](), 0, 0
    for result in results:
        seeds, counts = seeds + 1, counts + result.counts
        if result.violations:
            failed += 1
            print(f"events, seed {result.seed}:", *result.violations[:3], sep="\n  ", flush=True)
            print(f"again: python -m tests.simulation --events --seed {result.seed} --trace")
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"events: {seeds} seeds in {time.monotonic() - started:.0f} s: {told}")
    print(f"event violations: in {failed} seeds")
    return int(failed > 0)


def _event_mutants() -> int:
    with ProcessPoolExecutor() as pool:
        found = pool.map(event_mutants.found_at, event_mutants.MUTANTS)
        return int(sum(_judged(*each) for each in zip(event_mutants.MUTANTS, found, strict=True)) > 0)


def _quota_mutants() -> int:
    with ProcessPoolExecutor() as pool:
        found = pool.map(quota_mutants.found_at, quota_mutants.MUTANTS)
        return int(sum(_judged(*each) for each in zip(quota_mutants.MUTANTS, found, strict=True)) > 0)


def _mutants() -> int:
    with ProcessPoolExecutor() as pool:
        return int(sum(_judged(*each) for each in zip(MUTANTS, pool.map(found_at, MUTANTS), strict=True)) > 0)


def _judged(mutant: Mutant, found: int | None) -> bool:
    where = "NOT FOUND" if found is None else f"found at seed {found}"
    print(f"{mutant.name:40} {where}, of {mutant.seeds}", flush=True)
    return found is None


if __name__ == "__main__":
    sys.exit(main())
