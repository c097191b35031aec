"""The verdict of the nemesis: a run with too little traffic does not pass."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.nemesis.faults import InjectedFault
from tests.nemesis.verdict import Exit, Run, report, write_histories
from tests.support.history import Operation, Outcome, Read, Write
from tests.support.history_checker import check

READS: list[Operation] = [Read("key", at, at + 0.5, "client", None) for at in range(1000)]
GOOD = Run(
    2,
    READS,
    [],
    levels=Counter({"store": 600, "redis": 300, "l1": 100}),
    cycles=1,
    repeated=600,
    rejected=600,
    counts=1200,
    events=1800,
)
STALE: list[Operation] = [Write("key", 1.25, 1.5, "client", "w", Outcome.OK, 7), Read("key", 2, 3, "client", None)]


def test_good_run_passes() -> None:
    assert GOOD.exit is Exit.PASSED
    assert report(GOOD).endswith("PASSED")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (replace(GOOD, history=READS[:100]), "100 operations are fewer than 150"),
        (replace(GOOD, levels=Counter({"store": 701, "redis": 299})), "30% of the reads came from a cache"),
        (replace(GOOD, levels=Counter({None: 1000})), "no reply names the cache"),
        (replace(GOOD, repeated=1), "1 repeated requests are fewer than 2"),
        (replace(GOOD, rejected=0, seconds=10), "0 creations beyond the quota are fewer than 2"),
        (replace(GOOD, counts=3), "3 counts of live records are fewer than 4"),
        (replace(GOOD, events=5), "5 events are fewer than 6"),
        (replace(GOOD, cycles=0, seconds=60), "0 cycles of the fence are fewer than 1"),
        (replace(GOOD, cycles=19, seconds=600), "19 cycles of the fence are fewer than 20"),
    ],
    ids=["operations", "hits", "levels", "repeated", "refused", "counts", "events", "fence", "fence, long"],
)
def test_run_with_little_traffic_proves_nothing(run: Run, reason: str) -> None:
    assert run.exit is Exit.INVALID
    assert f"proves nothing: {reason}" in report(run)


def test_violation_fails_even_a_run_with_little_traffic(tmp_path: Path) -> None:
    unrelated = Read("another", 0, 1, "client", None)
    fault = InjectedFault("Redis flushed", "redis", 1.6, 1.7)
    run = Run(600, [*reversed(STALE), unrelated], check([*STALE, unrelated]), faults=[fault])
    assert run.exit is Exit.VIOLATED
    (path,) = write_histories(run, tmp_path)
    assert path.read_text().splitlines() == [
        *str(run.violations[0]).splitlines(),
        str(STALE[0]),
        str(fault),
        str(STALE[1]),
    ]


def test_undocumented_response_is_a_violation() -> None:
    run = replace(GOOD, replies=Counter({"GET 200": 999, "PUT 500": 1}))
    assert run.exit is Exit.VIOLATED
    assert "unexpected: PUT 500" in report(run)
