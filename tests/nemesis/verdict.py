"""What a run showed, and whether that is worth anything: a run in which little happened proves nothing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter
from pathlib import Path

from tests.nemesis.faults import Done
from tests.support.history import Operation, Read, Violation

OPERATIONS_A_SECOND, WHEN_SHORT_A_SECOND = 200_000 / 600, 75
"""How many a run must have. Short runs share a machine, a pause weighs more, and SecantusDB needs most of a core."""
HITS = 0.3
"""So large a part of the reads comes from a cache."""
SECONDS_A_CYCLE, WHEN_SHORT, SHORT_SECONDS = 30, 60, 600
"""The fence is let down and put up again at least as often as this; less often will do where chance decides more."""
REPEATED_A_SECOND, REFUSED_A_SECOND, COUNTS_A_SECOND = 1, 0.2, 2
"""Requests that were repeated under their Idempotency-Key, creations beyond the quota, and counts of live records."""
EVENTS_A_SECOND = 3
"""Entries of the event log: one for each write."""
STORE = "store"


class Exit(IntEnum):
    """How a run ends."""

    PASSED = 0
    VIOLATED = 1
    INVALID = 2


@dataclass
class Run:
    """What a run showed."""

    seconds: float
    history: list[Operation]
    violations: list[Violation]
    levels: Counter[str | None] = field(default_factory=Counter)
    """How many reads were answered from where; None where that was not told."""
    faults: list[Done] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    cycles: int = 0
    """How often the fence was let down and put up again."""
    restarts: int = 0
    """How often a service was started again, which had ended as a whole."""
    repeated: int = 0
    """How many requests were sent again under their Idempotency-Key."""
    refused: int = 0
    """How many creations were beyond the quota."""
    counts: int = 0
    """How often the live records were counted."""
    events: int = 0
    """How many entries the event log had in the end."""

    @property
    def hits(self) -> float | None:
        """What part of the reads came from a cache; None if nobody told."""
        reads = sum(isinstance(each, Read) for each in self.history)
        told = sum(count for level, count in self.levels.items() if level is not None)
        cached = told - self.levels[STORE]
        return cached / reads if told else None

    def faults_of_the_service(self) -> list[str]:
        """Return the answers that a service never gives, whatever goes wrong around it."""
        return sorted(answer for answer in self.answers if answer.endswith((" 500", " 400")))

    def shortcomings(self) -> list[str]:
        """Return why the run proves nothing."""
        is_short = self.seconds < SHORT_SECONDS
        wanted = (WHEN_SHORT_A_SECOND if is_short else OPERATIONS_A_SECOND) * self.seconds
        cycles = self.seconds // (WHEN_SHORT if is_short else SECONDS_A_CYCLE)
        found = []
        if len(self.history) < wanted:
            found.append(f"{len(self.history):,} operations are fewer than {wanted:,.0f}")
        if self.hits is None:
            found.append("no answer tells whether it came from a cache")
        elif self.hits < HITS:
            found.append(f"{self.hits:.0%} of the reads came from a cache, which is less than {HITS:.0%}")
        if self.cycles < cycles:
            found.append(f"{self.cycles} cycles of the fence are fewer than {cycles:.0f}")
        return found + self._too_rare()

    def _too_rare(self) -> list[str]:
        """Return what the load did too rarely to show anything."""
        wanted = {
            "repeated requests": (self.repeated, REPEATED_A_SECOND),
            "creations beyond the quota": (self.refused, REFUSED_A_SECOND),
            "counts of live records": (self.counts, COUNTS_A_SECOND),
            "events": (self.events, EVENTS_A_SECOND),
        }
        return [
            f"{count:,} {name} are fewer than {rate * self.seconds:,.0f}"
            for name, (count, rate) in wanted.items()
            if count < rate * self.seconds
        ]

    @property
    def exit(self) -> Exit:
        """How it ends: what is wrong is wrong, however little was done."""
        if self.violations or self.faults_of_the_service():
            return Exit.VIOLATED
        return Exit.INVALID if self.shortcomings() else Exit.PASSED


def report(run: Run) -> str:
    """Tell of a run, for a reader."""
    hits = "unknown" if run.hits is None else f"{run.hits:.0%}"
    lines = [
        f"{len(run.history):,} operations in {run.seconds:.0f} s, {len(run.history) / run.seconds:.0f} a second",
        f"answers     {_counts(run.answers)}",
        f"faults      {_counts(Counter(each.name for each in run.faults))}",
        f"from caches {hits} of the reads: {_counts(run.levels)}",
        f"fence       {run.cycles} cycles",
        f"restarts    {run.restarts}",
        f"idempotency {run.repeated:,} requests were sent more than once",
        f"quota       {run.refused:,} creations were beyond it; live records were counted {run.counts:,} times",
        f"events      {run.events:,} in the log",
        f"violations  {len(run.violations)}",
        *(f"unexpected: {answer}" for answer in run.faults_of_the_service()),
        *(f"proves nothing: {reason}" for reason in run.shortcomings()),
        run.exit.name,
    ]
    return "\n".join(lines)


def samples(run: Run) -> list[Violation]:
    """Return the first violation of each rule and key: one fault is seen by many."""
    first: dict[tuple[str, str], Violation] = {}
    for violation in run.violations:
        first.setdefault((violation.rule, violation.key), violation)
    return list(first.values())


def write_histories(run: Run, folder: Path) -> list[Path]:
    """Write down each key that a violation is of, with its operations and all faults; return the files."""
    found = []
    for key in sorted({violation.key for violation in run.violations}):
        lines: Iterable[object] = [
            *(violation for violation in run.violations if violation.key == key),
            *sorted([*run.faults, *(each for each in run.history if each.key == key)], key=attrgetter("start")),
        ]
        found.append(folder / f"{key}.txt")
        found[-1].write_text("\n".join(map(str, lines)) + "\n")
    return found


def _counts(counter: Counter[str] | Counter[str | None]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items(), key=str)) or "none"
