"""Whether response times distinguish a wrong secret from an unknown id: `python -m bench.timing`.

    python -m bench.timing [--log-ins 20000] [--connections 100] [--seed 1]

Failing log-ins, each at random of one kind or the other, on many connections to one service; then two statistical
tests, and the difference of the medians. The exit code is 1 if either test distinguishes the kinds.
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
"""The significance level: how often a test may distinguish two samples of the same distribution."""
WARM = 500
"""Log-ins at the start that are not counted."""
RESAMPLES = 500


class Samples(NamedTuple):
    """Response times in seconds, by kind of failure."""

    wrong: list[float]
    unknown: list[float]


def main() -> None:
    """Measure, test, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--log-ins", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    draw = random.Random(options.seed)
    with service("--access", "keys", "--login-limit", "", core=SERVER_CORE) as running:
        samples = asyncio.run(_measure(running, options.log_ins, options.connections, draw))
    sys.exit(report(samples, draw))


def report(samples: Samples, draw: random.Random) -> bool:
    """Print the results; return whether a test distinguishes the two kinds."""
    for name, seconds in samples._asdict().items():
        p50, p99 = (1e3 * statistics.quantiles(seconds, n=100)[percentile - 1] for percentile in (50, 99))
        print(f"{name:8} {len(seconds):6,} responses, p50 {p50:.3f} ms, p99 {p99:.3f} ms")
    low, middle, high = difference(samples.wrong, samples.unknown, draw)
    print(f"medians differ by {1e6 * middle:+.1f} µs (95 %: {1e6 * low:+.1f} to {1e6 * high:+.1f})")
    p_values = {"Kolmogorov-Smirnov": kolmogorov_smirnov(*samples), "Mann-Whitney": mann_whitney(*samples)}
    for name, p in p_values.items():
        print(f"{name}: p = {p:.3f}{', which distinguishes them' if p < ALPHA else ''}")
    return min(p_values.values()) < ALPHA


async def _measure(running: Running, count: int, connections: int, draw: random.Random) -> Samples:
    key, _ = keys.generate("alice", SCOPES, time.time_ns() // 1_000_000)
    async with open_keys(f"sqlite:///{running.folder / 'guidsvc.db'}") as key_repository:
        if not await key_repository.swap(None, key):
            raise RuntimeError("the key exists already")
    is_wrong_list = [draw.random() < 0.5 for _ in range(WARM + count)]  # noqa: PLR2004  # even chances
    log_ins, samples = iter(enumerate(is_wrong_list)), Samples([], [])

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for index, is_wrong in log_ins:
            _, text = keys.generate("alice", SCOPES, 0)
            parsed = keys.parse(text)
            if is_wrong and parsed is not None:
                text = keys.format_key(key.id, parsed.secret)
            seconds = await _log_in(reader, writer, text)
            if index >= WARM:
                (samples.wrong if is_wrong else samples.unknown).append(seconds)
        writer.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return samples


async def _log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> float:
    """Send a request with an invalid key; return the time to the response, which must be 401."""
    request = f"GET /guid/{GUID} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {text}\r\n\r\n".encode()
    start = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    seconds = time.perf_counter() - start
    if not head.startswith(b"HTTP/1.1 401 "):
        raise RuntimeError(f"unexpected response to a failed log-in: {head!r}")
    size = bytes(head).lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(size))
    return seconds


# The tests use the limiting distributions of their statistics, for large samples


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value of the Kolmogorov-Smirnov test for two samples."""
    steps = sorted([(value, 1 / len(first)) for value in first] + [(value, -1 / len(second)) for value in second])
    distance = height = 0.0
    for index, (value, step) in enumerate(steps):
        height += step
        if index + 1 == len(steps) or steps[index + 1][0] != value:
            distance = max(distance, abs(height))
    root = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    scaled = (root + 0.12 + 0.11 / root) * distance  # Stephens' correction
    if scaled < 0.3:  # noqa: PLR2004  # the series does not converge here; p is 1 to 5 places
        return 1.0
    return min(1.0, 2 * sum((1 if k % 2 else -1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)))


def mann_whitney(first_sample: Sequence[float], second_sample: Sequence[float]) -> float:
    """Return the p-value of the two-sided Mann-Whitney test for two samples."""
    ranks, rank = dict[float, float](), 1
    ties = Counter([*first_sample, *second_sample])
    for value in sorted(ties):
        ranks[value] = rank + (ties[value] - 1) / 2
        rank += ties[value]
    n, m = len(first_sample), len(second_sample)
    u = sum(ranks[value] for value in first_sample) - n * (n + 1) / 2
    correction = sum(count * (count * count - 1) for count in ties.values()) / ((n + m) * (n + m - 1))
    sigma = math.sqrt(n * m / 12 * (n + m + 1 - correction))
    return 1.0 if sigma == 0 else math.erfc(max(0.0, abs(u - n * m / 2) - 0.5) / sigma / math.sqrt(2))


def difference(first: Sequence[float], second: Sequence[float], draw: random.Random) -> tuple[float, float, float]:
    """Return the difference of the medians with its 95 % bootstrap interval: lower bound, value, upper bound."""
    resampled = sorted(
        statistics.median(draw.choices(first, k=len(first))) - statistics.median(draw.choices(second, k=len(second)))
        for _ in range(RESAMPLES)
    )
    return resampled[RESAMPLES // 40], statistics.median(first) - statistics.median(second), resampled[-RESAMPLES // 40]


if __name__ == "__main__":
    main()
