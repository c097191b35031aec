"""Plain instruments: whoever counts adds to integers and lists, and whoever tells of them reads those now and then.

They know nothing of what they are told as, and take no lock: all that count do so on the event loop. Each part of the
service is given its own; `Meters` are all of them. What is counted only ever rises.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import TracebackType

from guidsvc.telemetry.tracing import L1, MISS, REDIS, record_source, record_wait

QUICK_SECONDS = 0.0001
"""Within which a request is quick: the first bound of latencies."""
LATENCIES = (QUICK_SECONDS, *(each * 10.0**power for power in (-4, -3, -2, -1, 0) for each in (2.5, 5, 10)))
"""Bounds in seconds, up to 10."""
SIZES = tuple(2.0**power for power in range(10))
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds; below a millisecond timers are not exact."""
LATENESS = (1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0)
"""Seconds. A sweep comes once a minute."""


class Histogram:
    """How many observations were at most each of the bounds, and beyond the last; and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count an observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Latency(Histogram):
    """How long a part of the service took, in seconds; told to the request that waited for it, too."""

    __slots__ = ("_part",)

    def __init__(self, part: str) -> None:
        super().__init__(LATENCIES)
        self._part = part

    def observe(self, value: float) -> None:
        super().observe(value)
        record_wait(self._part, value)


class FastCounter:
    """Requests of one kind that were answered within QUICK_SECONDS: to count one must cost next to nothing."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


_Kind = tuple[str, str, int]  # route, method, status


class RequestMetrics:
    """Requests that were answered, by route, method and status, none of which clients can make up."""

    def __init__(self) -> None:
        self.refused: Counter[int] = Counter()
        """What was no request that could be read, or came over one connection too many, by status."""
        self.under_way: Callable[[], int] = int
        self.in_progress: Callable[[], int] = int
        """Those, and parts of long ones, that have a place among what is done at a time."""
        self.waiting: Callable[[], int] = int
        """Those that wait for one."""
        self.undone: Callable[[], Mapping[str, int]] = dict
        """Those that were not done, or not to their end, by why."""
        self._counts: dict[_Kind, int] = {}
        self._latencies: dict[str, Histogram] = {}
        self._quick: dict[_Kind, FastCounter] = {}

    def done(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        kind = (route, method, status)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        latency = self._latencies.get(route)
        if latency is None:
            latency = self._latencies[route] = Histogram(LATENCIES)
        latency.observe(seconds)

    def quick(self, route: str, method: str, status: int) -> FastCounter:
        """Return what those of a kind that are quick may be counted in instead."""
        return self._quick.setdefault((route, method, status), FastCounter())

    def counts(self) -> Mapping[_Kind, int]:
        """Return how many there were, by kind."""
        return self._counts | {
            kind: self._counts.get(kind, 0) + quick.count for kind, quick in self._quick.items() if quick.count
        }

    def latencies(self) -> Mapping[str, Histogram]:
        """Return how long they took, by route."""
        merged = dict(self._latencies)
        for (route, _, _), quick in self._quick.items():
            whole, known = Histogram(LATENCIES), merged.get(route)
            if known is not None:
                whole.counts, whole.sum = known.counts.copy(), known.sum
            whole.counts[0] += quick.count
            whole.sum += quick.seconds
            merged[route] = whole
        return merged


class BatchMetrics:
    """What goes out together: how many items did, and how many wait."""

    def __init__(self) -> None:
        self.sizes = Histogram(SIZES)
        self.waiting: Callable[[], int] = int


class CacheMetrics:
    """Reads, by where the record came from; and the link to Redis, and its fence, where there are such."""

    __slots__ = ("batch", "changes", "l1_hits", "misses", "mode", "redis_hits", "redis_latency", "up")

    def __init__(self) -> None:
        self.l1_hits = self.redis_hits = self.misses = 0
        self.redis_latency = Latency("redis")
        self.batch = BatchMetrics()
        self.up: bool | None = None
        """Whether Redis is asked; None where there is none."""
        self.mode: str | None = None
        self.changes = 0

    def l1(self) -> None:
        """Count a read that this process answered from its memory."""
        self.l1_hits += 1
        record_source(L1)

    def redis(self) -> None:
        """Count a read that Redis answered."""
        self.redis_hits += 1
        record_source(REDIS)

    def miss(self) -> None:
        """Count a read that the store had to answer."""
        self.misses += 1
        record_source(MISS)

    def source(self, misses: int) -> str:
        """Return where a peek found what it found, before which there were so many misses."""
        return L1 if self.misses == misses else MISS

    def link(self, *, up: bool) -> None:
        """Note that Redis is asked from here on, or is not."""
        self.up = up

    def fence(self, mode: str) -> None:
        """Note which mode the fence is in: on, arm or off."""
        if self.mode is not None and mode != self.mode:
            self.changes += 1
        self.mode = mode


class StoreMetrics:
    """What the store did, by operation; and what it has purged."""

    def __init__(self) -> None:
        self.latencies = {operation: Latency("store") for operation in ("get", "swap", "find", "count", "fence")}
        self.failures: Counter[str] = Counter(dict.fromkeys(self.latencies, 0))
        self.batches: dict[str, BatchMetrics] = {}
        self.wal_bytes: Callable[[], int] | None = None
        """The size of the write-ahead log, where there is one."""
        self.lateness = Histogram(LATENESS)
        """How long after its time a record was purged, in seconds: for each that was."""

    def batch(self, name: str) -> BatchMetrics:
        """Return the meter of a kind of batch."""
        return self.batches.setdefault(name, BatchMetrics())


class AuditMetrics:
    """The audit log: how many lines could not be written."""

    def __init__(self) -> None:
        self.failures = 0


class Stopwatch:
    """Observes how long is done what is done inside."""

    __slots__ = ("_begun", "_latency")

    def __init__(self, latency: Histogram) -> None:
        self._latency = latency

    def __enter__(self) -> None:
        """Begin."""
        self._begun = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None:
        """End, and observe."""
        self._latency.observe(perf_counter() - self._begun)


class Metrics:
    """All instruments of a process."""

    def __init__(self) -> None:
        self.requests = RequestMetrics()
        self.cache = CacheMetrics()
        self.store = StoreMetrics()
        self.audit = AuditMetrics()
        self.metric_files_left_out = 0
        """Files in the folder of metrics that could not be read, each time that one was found."""
        self.lag = Histogram(LAGS)
        """How late the event loop was at what it was to do, in seconds, a few times a second."""
        self.connections: Callable[[], int] = int
        self.dropped_log_lines: Callable[[], int] = int
