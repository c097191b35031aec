"""The same puts, one request each, and as batches, in turns against one service.

    python -m bench.batch

Every put creates a record, durably. Single ones go over one connection, and over 32 side by side.
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
    ways: dict[str, Callable[[Running, list[str]], None]] = {
        "single, 1 connection": single,
        f"single, {CONNECTIONS} connections": side_by_side,
        "batch, JSON": document,
        "batch, lines": lines,
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with service() as running:
        for _ in range(ROUNDS):
            for way, put in ways.items():
                taken: list[float] = []
                guids = [f"{next(_numbers):032X}" for _ in range(PUTS)]
                with stopwatch(taken):
                    put(running, guids)
                rates[way].append(PUTS / taken[0])
    base = statistics.median(rates["single, 1 connection"])
    for way, found in rates.items():
        median = statistics.median(found)
        print(f"{way:<26}{median:8,.0f} puts/s ({min(found):,.0f} to {max(found):,.0f}) {median / base:6.1f} x")


def single(running: Running, guids: list[str]) -> None:
    """Put one after the other."""
    connection = running.connect()
    for guid in guids:
        ask(connection, "PUT", f"/guid/{guid}", b'{"user": "a"}').read()


def side_by_side(running: Running, guids: list[str]) -> None:
    """Put over many connections."""
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for done in [threads.submit(single, running, guids[start::CONNECTIONS]) for start in range(CONNECTIONS)]:
            done.result()


def document(running: Running, guids: list[str]) -> None:
    """Put a thousand in a document."""
    connection = running.connect()
    for start in range(0, len(guids), 1000):
        operations = [{"guid": guid, "user": "a"} for guid in guids[start : start + 1000]]
        body = json.dumps({"operations": operations}).encode()
        ask(connection, "POST", "/guid:batch", body, Content_Type="application/json").read()


def lines(running: Running, guids: list[str]) -> None:
    """Put all as lines."""
    body = b"".join(b'{"guid": "%b", "user": "a"}\n' % guid.encode() for guid in guids)
    ask(running.connect(), "POST", "/guid:batch", body, Content_Type="application/x-ndjson").read()


if __name__ == "__main__":
    main()
