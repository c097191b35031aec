"""Whether a wrong secret and an unknown id can be told apart by the time of the answer: `python -m bench.timing`.

    python -m bench.timing [--log-ins 20000] [--connections 100] [--seed 1]

Log-ins that fail, each at random one or the other, on many connections to one service; then two tests, and how far the
medians are apart. The exit code is 1 if either test tells them apart.
"""

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from bench.contenders.fixed import GUID
from bench.running import LOAD_CORE, SERVER_CORE, Running, service
from guidsvc.domain import api_key as keys
from guidsvc.domain.caller import SCOPES
from guidsvc.store import open_keys

ALPHA = 0.01
"""Two samples of the same are told apart so seldom."""
WARM = 500
"""Log-ins that are not counted."""
RESAMPLES = 500


class Samples(NamedTuple):
    """How long answers took, in seconds."""

    wrong: list[float]
    unknown: list[float]


def main() -> None:
    """Measure, judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--log-ins", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    draw = random.Random(options.seed)
    with service("--access", "keys", "--login-limit", "", core=SERVER_CORE) as running:
        found = asyncio.run(_measure(running, options.log_ins, options.connections, draw))
    sys.exit(report(found, draw))


def report(found: Samples, draw: random.Random) -> bool:
    """Print what was found; return whether the two can be told apart."""
    for name, taken in found._asdict().items():
        p50, p99 = (1e3 * statistics.quantiles(taken, n=100)[at - 1] for at in (50, 99))
        print(f"{name:8} {len(taken):6,} answers, p50 {p50:.3f} ms, p99 {p99:.3f} ms")
    low, middle, high = difference(found.wrong, found.unknown, draw)
    print(f"medians differ by {1e6 * middle:+.1f} µs (95 %: {1e6 * low:+.1f} to {1e6 * high:+.1f})")
    judged = {"Kolmogorov-Smirnov": kolmogorov_smirnov(*found), "Mann-Whitney": mann_whitney(*found)}
    for name, p in judged.items():
        print(f"{name}: p = {p:.3f}{', which tells them apart' if p < ALPHA else ''}")
    return min(judged.values()) < ALPHA


async def _measure(running: Running, count: int, connections: int, draw: random.Random) -> Samples:
    known, _ = keys.generate("alice", SCOPES, time.time_ns() // 1_000_000)
    async with open_keys(f"sqlite:///{running.folder / 'guidsvc.db'}") as kept:
        if not await kept.swap(None, known):
            raise RuntimeError("the key is there already")
    kinds = [draw.random() < 0.5 for _ in range(WARM + count)]  # noqa: PLR2004  # even chances
    left, found = iter(enumerate(kinds)), Samples([], [])

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for place, is_wrong in left:
            _, text = keys.generate("alice", SCOPES, 0)
            shown = keys.parse(text)
            if is_wrong and shown is not None:
                text = keys.format_key(known.id, shown.secret)
            taken = await _log_in(reader, writer, text)
            if place >= WARM:
                (found.wrong if is_wrong else found.unknown).append(taken)
        writer.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return found


async def _log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> float:
    """Ask with a key, and return how long the answer took, which must be that it opens nothing."""
    request = f"GET /guid/{GUID} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {text}\r\n\r\n".encode()
    begun = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    taken = time.perf_counter() - begun
    if not head.startswith(b"HTTP/1.1 401 "):
        raise RuntimeError(f"a failed log-in is answered {head!r}")
    size = bytes(head).lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(size))
    return taken


# The tests: of large samples, by the distributions that their statistics tend to


def kolmogorov_smirnov(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how likely it is that two samples of the same distribution are at least so far apart somewhere."""
    steps = sorted([(value, 1 / len(one)) for value in one] + [(value, -1 / len(other)) for value in other])
    apart = height = 0.0
    for place, (value, step) in enumerate(steps):
        height += step
        if place + 1 == len(steps) or steps[place + 1][0] != value:
            apart = max(apart, abs(height))
    root = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    scaled = (root + 0.12 + 0.11 / root) * apart  # Stephens' correction
    if scaled < 0.3:  # noqa: PLR2004  # where the series does not converge, and p is 1 to 5 places
        return 1.0
    return min(1.0, 2 * sum((1 if k % 2 else -1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)))


def mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how likely it is that of two samples of the same one is so often the larger, or so seldom."""
    first, rank = dict[float, float](), 1
    ties = Counter([*one, *other])
    for value in sorted(ties):
        first[value] = rank + (ties[value] - 1) / 2
        rank += ties[value]
    n, m = len(one), len(other)
    u = sum(first[value] for value in one) - n * (n + 1) / 2
    correction = sum(count * (count * count - 1) for count in ties.values()) / ((n + m) * (n + m - 1))
    sigma = math.sqrt(n * m / 12 * (n + m + 1 - correction))
    return 1.0 if sigma == 0 else math.erfc(max(0.0, abs(u - n * m / 2) - 0.5) / sigma / math.sqrt(2))


def difference(one: Sequence[float], other: Sequence[float], draw: random.Random) -> tuple[float, float, float]:
    """Return by how much the medians differ: at least, as measured, and at most, of 95 % of what is drawn anew."""
    found = sorted(
        statistics.median(draw.choices(one, k=len(one))) - statistics.median(draw.choices(other, k=len(other)))
        for _ in range(RESAMPLES)
    )
    return found[RESAMPLES // 40], statistics.median(one) - statistics.median(other), found[-RESAMPLES // 40]


if __name__ == "__main__":
    main()
