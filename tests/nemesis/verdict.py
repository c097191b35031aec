"""The result of a run, and whether it is conclusive: a run with too few operations or faults proves nothing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter
from pathlib import Path

from tests.nemesis.faults import InjectedFault
from tests.support.history import Operation, Read, Violation

OPERATIONS_A_SECOND, SHORT_RUN_OPERATIONS_A_SECOND = 200_000 / 600, 75
"""The minimum. Short runs share a machine, a pause weighs more, and SecantusDB needs most of a core."""
HITS = 0.3
"""The minimum share of reads that a cache serves."""
SECONDS_A_CYCLE, SECONDS_A_CYCLE_OF_SHORT_RUN, SHORT_SECONDS = 30, 60, 600
"""The maximum time per cycle of the fence; short runs vary more, so they may have fewer cycles."""
REPEATED_A_SECOND, REJECTED_A_SECOND, COUNTS_A_SECOND = 1, 0.2, 2
"""The minimum of requests repeated with their Idempotency-Key, creations beyond the quota, and counts of records."""
EVENTS_A_SECOND = 3
"""The minimum of entries in the event log, which has one per write."""
STORE = "store"


class Exit(IntEnum):
    """The exit code of a run."""

    PASSED = 0
    VIOLATED = 1
    INVALID = 2


@dataclass
class Run:
    """The result of a run."""

    seconds: float
    history: list[Operation]
    violations: list[Violation]
    levels: Counter[str | None] = field(default_factory=Counter)
    """The reads by the level that served them; None if the reply does not name it."""
    faults: list[InjectedFault] = field(default_factory=list)
    replies: Counter[str] = field(default_factory=Counter)
    cycles: int = 0
    """The cycles in which the fence was disabled and enabled again."""
    restarts: int = 0
    """The restarts of services that had ended."""
    repeated: int = 0
    """The requests that were repeated with their Idempotency-Key."""
    rejected: int = 0
    """The creations that were rejected by the quota."""
    counts: int = 0
    """The counts of the live records."""
    events: int = 0
    """The entries of the event log at the end."""

    @property
    def hits(self) -> float | None:
        """The share of reads that a cache served; None if no reply names the level."""
        reads = sum(isinstance(operation, Read) for operation in self.history)
        known = sum(count for level, count in self.levels.items() if level is not None)
        cached = known - self.levels[STORE]
        return cached / reads if known else None

    def faults_of_the_service(self) -> list[str]:
        """Return the replies that a service must never send, regardless of faults around it."""
        return sorted(reply for reply in self.replies if reply.endswith((" 500", " 400")))

    def shortcomings(self) -> list[str]:
        """Return the reasons why the run is inconclusive."""
        is_short = self.seconds < SHORT_SECONDS
        expected = (SHORT_RUN_OPERATIONS_A_SECOND if is_short else OPERATIONS_A_SECOND) * self.seconds
        cycles = self.seconds // (SECONDS_A_CYCLE_OF_SHORT_RUN if is_short else SECONDS_A_CYCLE)
        reasons = []
        if len(self.history) < expected:
            reasons.append(f"{len(self.history):,} operations are fewer than {expected:,.0f}")
        if self.hits is None:
            reasons.append("no reply names the cache that served it")
        elif self.hits < HITS:
            reasons.append(f"{self.hits:.0%} of the reads came from a cache, which is less than {HITS:.0%}")
        if self.cycles < cycles:
            reasons.append(f"{self.cycles} cycles of the fence are fewer than {cycles:.0f}")
        return reasons + self._rare_operations()

    def _rare_operations(self) -> list[str]:
        """Return the kinds of operations that the load sent too rarely."""
        minimums = {
            "repeated requests": (self.repeated, REPEATED_A_SECOND),
            "creations beyond the quota": (self.rejected, REJECTED_A_SECOND),
            "counts of live records": (self.counts, COUNTS_A_SECOND),
            "events": (self.events, EVENTS_A_SECOND),
        }
        return [
            f"{count:,} {name} are fewer than {rate * self.seconds:,.0f}"
            for name, (count, rate) in minimums.items()
            if count < rate * self.seconds
        ]

    @property
    def exit(self) -> Exit:
        """The exit code: violations count even if the run is otherwise inconclusive."""
        if self.violations or self.faults_of_the_service():
            return Exit.VIOLATED
        return Exit.INVALID if self.shortcomings() else Exit.PASSED


def report(run: Run) -> str:
    """Return the report."""
    hits = "unknown" if run.hits is None else f"{run.hits:.0%}"
    lines = [
        f"{len(run.history):,} operations in {run.seconds:.0f} s, {len(run.history) / run.seconds:.0f} a second",
        f"replies     {_counts(run.replies)}",
        f"faults      {_counts(Counter(fault.name for fault in run.faults))}",
        f"from caches {hits} of the reads: {_counts(run.levels)}",
        f"fence       {run.cycles} cycles",
        f"restarts    {run.restarts}",
        f"idempotency {run.repeated:,} requests were sent more than once",
        f"quota       {run.rejected:,} creations were rejected; live records were counted {run.counts:,} times",
        f"events      {run.events:,} in the log",
        f"violations  {len(run.violations)}",
        *(f"unexpected: {reply}" for reply in run.faults_of_the_service()),
        *(f"proves nothing: {reason}" for reason in run.shortcomings()),
        run.exit.name,
    ]
    return "\n".join(lines)


def samples(run: Run) -> list[Violation]:
    """Return the first violation of each rule and key, since one fault causes many."""
    first: dict[tuple[str, str], Violation] = {}
    for violation in run.violations:
        first.setdefault((violation.rule, violation.key), violation)
    return list(first.values())


def write_histories(run: Run, folder: Path) -> list[Path]:
    """Write a file for each key with a violation, with its operations and all faults; return the paths."""
    paths = []
    for key in sorted({violation.key for violation in run.violations}):
        lines: Iterable[object] = [
            *(violation for violation in run.violations if violation.key == key),
            *sorted([*run.faults, *(each for each in run.history if each.key == key)], key=attrgetter("start")),
        ]
        paths.append(folder / f"{key}.txt")
        paths[-1].write_text("\n".join(map(str, lines)) + "\n")
    return paths


def _counts(counter: Counter[str] | Counter[str | None]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items(), key=str)) or "none"
