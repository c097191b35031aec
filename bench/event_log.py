"""The cost of the event log per write: `python -m bench.event_log`.

It measures the CPU time of creations and updates on a service with the log and on one without, in turns.
"""

import statistics
from collections import defaultdict
from contextlib import ExitStack

from bench import records, wrk
from bench.running import SERVER_CORE, Running, service

KEYS = 100_000
ROUNDS, SECONDS = 7, 3
CONNECTIONS = 32
WITHOUT, WITH = "off", "all"
AIM = 1.15
"""The maximum ratio of the CPU time of a write with the log to one without."""


def main() -> None:
    """Measure, and print."""
    cpu_us: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        running = {mode: stack.enter_context(service("--events", mode, core=SERVER_CORE)) for mode in (WITHOUT, WITH)}
        for server in running.values():
            records.put_in(server, 0, KEYS)
        for number in range(ROUNDS + 1):  # the first to warm up
            for script in ("create", "update"):
                for mode in (WITHOUT, WITH):
                    cpu_us[script, mode].append(_cpu_us_per_request(running[mode], script, number))
    for script in ("create", "update"):
        without, with_log = (statistics.median(cpu_us[script, mode][1:]) for mode in (WITHOUT, WITH))
        ratio = f"{with_log / without:.2f} times as much (aim: at most {AIM})"
        print(f"{script}: {without:.1f} µs of CPU without the log, {with_log:.1f} with it: {ratio}")


def _cpu_us_per_request(running: Running, script: str, number: int) -> float:
    """Return the CPU time of a request, in µs."""
    cpu_before = running.cpu_seconds
    variables = {"KEYS": KEYS, "FIRST": KEYS * (number + 2)}
    load = wrk.load(running.port, "/", SECONDS, script=script, connections=CONNECTIONS, variables=variables)
    if load.failed:
        raise RuntimeError(f"{load.failed} of {load.requests} failed")
    return (running.cpu_seconds - cpu_before) / load.requests * 1e6


if __name__ == "__main__":
    main()
