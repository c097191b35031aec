"""What the event log costs a write: `python -m bench.event_log`.

Creations and updates of a service with the log and of one without, in turns: the CPU time that each takes.
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
"""How many times as much CPU time a write may take with the log."""


def main() -> None:
    """Measure, and print."""
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        running = {mode: stack.enter_context(service("--events", mode, core=SERVER_CORE)) for mode in (WITHOUT, WITH)}
        for each in running.values():
            records.put_in(each, 0, KEYS)
        for number in range(ROUNDS + 1):  # the first to warm up
            for script in ("create", "update"):
                for mode in (WITHOUT, WITH):
                    spent[script, mode].append(_spent(running[mode], script, number))
    for script in ("create", "update"):
        without, with_log = (statistics.median(spent[script, mode][1:]) for mode in (WITHOUT, WITH))
        ratio = f"{with_log / without:.2f} times as much (aim: at most {AIM})"
        print(f"{script}: {without:.1f} µs of CPU without the log, {with_log:.1f} with it: {ratio}")


def _spent(running: Running, script: str, number: int) -> float:
    """Return the CPU time of a request, in µs."""
    before = running.cpu_seconds
    variables = {"KEYS": KEYS, "FIRST": KEYS * (number + 2)}
    found = wrk.load(running.port, "/", SECONDS, script=script, connections=CONNECTIONS, variables=variables)
    if found.failed:
        raise RuntimeError(f"{found.failed} of {found.requests} failed")
    return (running.cpu_seconds - before) / found.requests * 1e6


if __name__ == "__main__":
    main()
