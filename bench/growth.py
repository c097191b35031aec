"""The cost of a read at ten thousand and at five million records, measured in turns: `python -m bench.growth`.

    python -m bench.growth [--records 5000000] [--rounds 5] [--seconds 3]

It also prints the memory of each service, which the settings bound, after reads of records everywhere.
"""

import argparse
import statistics
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import records, wrk
from bench.running import ROOT, SERVER_CORE, Running, ask, service

SMALL = 10_000
CACHE = "256MiB"
"""The cache size of the service."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        sizes = (SMALL, options.records)
        cached = {size: _start(stack, size, CACHE) for size in sizes}
        bare = {size: _start(stack, size, "0") for size in sizes}
        rates: dict[tuple[str, int], list[float]] = defaultdict(list)
        for _ in range(options.rounds):
            for size in sizes:
                path = f"/guid/{records.key(1)}"
                rates["L1 read", size].append(wrk.load(cached[size].port, path, options.seconds).rate)
                load = wrk.load(bare[size].port, "/", options.seconds, script="read", variables={"KEYS": size})
                rates["SQLite read", size].append(load.rate)
                wrk.load(cached[size].port, "/", options.seconds, script="read", variables={"KEYS": size})
        for label in ("L1 read", "SQLite read"):
            small, large = (statistics.median(rates[label, size]) for size in sizes)
            print(
                f"{label:<12}{small:9,.0f}/s at {SMALL:,}, {large:9,.0f}/s at {options.records:,}: {large / small:.2f}"
            )
        for size in sizes:
            print(f"memory at {size:>9,}: {cached[size].mib:.0f} MiB with a cache of {CACHE}, "
                  f"{bare[size].mib:.0f} MiB without one")  # fmt: skip


def _start(stack: ExitStack, size: int, cache: str) -> Running:
    """Start a service with `size` records and a cache of this size."""
    folder = Path(stack.enter_context(TemporaryDirectory(dir=ROOT)))
    url = f"sqlite:///{folder / 'guidsvc.db'}"
    with service("--store-url", url):
        pass  # creates the file
    records.fill(folder / "guidsvc.db", size)
    running = stack.enter_context(service("--store-url", url, "--cache-size", cache, core=SERVER_CORE))
    ask(running.connect(), "GET", f"/guid/{records.key(size - 1)}").read()
    return running


if __name__ == "__main__":
    main()
