"""Tail latency of a service that is not saturated: `python -m bench.tail`.

The load is 95 % reads and 5 % updates, by Zipf's law over 100,000 records, at 70 % of the peak rate; and, to show the
effect of the updates, only reads. Clients pause at random; the pauses are tuned until the rate is reached.
"""

import statistics
from collections.abc import Iterator

from bench import records, wrk
from bench.running import SERVER_CORE, Running, service

KEYS = 100_000
SHARE = 0.7
CONNECTIONS = 64
ROUNDS, SECONDS = 5, 3
TRIES, NEAR = 12, 0.03


def main() -> None:
    """Measure, and print."""
    with service(core=SERVER_CORE) as running:
        records.put_in(running, 0, KEYS)
        for label, writes in (("95 % reads, 5 % updates", 0.05), ("reads alone", 0.0)):
            print(f"{label}: {' '.join(_results(running, writes))}")


def _results(running: Running, writes: float) -> Iterator[str]:
    _load(running, writes)  # to warm up
    peak = statistics.median(_load(running, writes).rate for _ in range(ROUNDS))
    pause = _tuned_pause(running, writes, SHARE * peak)
    loads = [_load(running, writes, pause) for _ in range(ROUNDS)]
    rate, p50, p99 = (statistics.median(getattr(load, name) for load in loads) for name in ("rate", "p50", "p99"))
    yield f"peak {peak:,.0f}/s;"
    yield f"at {rate / peak:.0%} of it p50 {p50:.2f} ms, p99 {p99:.2f} ms, {p99 / p50:.1f} times as long"


def _tuned_pause(running: Running, writes: float, rate: float) -> float:
    """Return the mean pause in ms with which the connections reach this rate."""
    pause = CONNECTIONS / rate * 1e3
    for _ in range(TRIES):
        reached = _load(running, writes, pause).rate
        if abs(reached / rate - 1) < NEAR:
            break
        pause *= reached / rate
    return pause


def _load(running: Running, writes: float, pause: float = 0) -> wrk.Measured:
    variables = {"KEYS": KEYS, "WRITES": writes, "PAUSE": pause}
    connections = CONNECTIONS if pause else wrk.CONNECTIONS
    return wrk.load(running.port, "/", SECONDS, script="mix", connections=connections, variables=variables)


if __name__ == "__main__":
    main()
