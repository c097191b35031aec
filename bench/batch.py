"""The same puts as single requests and as batches, in turns against one service.

    python -m bench.batch

Every put creates a durable record. Single puts use one connection, or 32 in parallel.
"""

import json
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from bench.running import Running, ask, service, stopwatch

PUTS = 2_000
ROUNDS = 5
CONNECTIONS = 32
_numbers = count()


def main() -> None:
    """Measure, and print."""
    methods: dict[str, Callable[[Running, list[str]], None]] = {
        "single, 1 connection": single,
        f"single, {CONNECTIONS} connections": in_parallel,
        "batch, JSON": document,
        "batch, lines": lines,
    }
    rates: dict[str, list[float]] = {method: [] for method in methods}
    with service() as running:
        for _ in range(ROUNDS):
            for method, put in methods.items():
                seconds: list[float] = []
                guids = [f"{next(_numbers):032X}" for _ in range(PUTS)]
                with stopwatch(seconds):
                    put(running, guids)
                rates[method].append(PUTS / seconds[0])
    base = statistics.median(rates["single, 1 connection"])
    for method, measured in rates.items():
        median = statistics.median(measured)
        print(
            f"{method:<26}{median:8,.0f} puts/s ({min(measured):,.0f} to {max(measured):,.0f}) {median / base:6.1f} x"
        )


def single(running: Running, guids: list[str]) -> None:
    """Send single puts, one after the other."""
    connection = running.connect()
    for guid in guids:
        ask(connection, "PUT", f"/guid/{guid}", b'{"user": "a"}').read()


def in_parallel(running: Running, guids: list[str]) -> None:
    """Send single puts over many connections in parallel."""
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for future in [threads.submit(single, running, guids[start::CONNECTIONS]) for start in range(CONNECTIONS)]:
            future.result()


def document(running: Running, guids: list[str]) -> None:
    """Send batches of a thousand puts in a document."""
    connection = running.connect()
    for start in range(0, len(guids), 1000):
        operations = [{"guid": guid, "user": "a"} for guid in guids[start : start + 1000]]
        body = json.dumps({"operations": operations}).encode()
        ask(connection, "POST", "/guid:batch", body, Content_Type="application/json").read()


def lines(running: Running, guids: list[str]) -> None:
    """Send all puts in one batch of lines."""
    body = b"".join(b'{"guid": "%b", "user": "a"}\n' % guid.encode() for guid in guids)
    ask(running.connect(), "POST", "/guid:batch", body, Content_Type="application/x-ndjson").read()


if __name__ == "__main__":
    main()
