"""Plain instruments: code adds to integers and lists, and exporters read those periodically.

Instruments know no export format. They need no lock, because all updates run on the event loop. Each component gets its
own instruments; `Metrics` holds all of them. Counters never decrease.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, time
from types import TracebackType
from typing import NamedTuple

from guidsvc.telemetry.state_metrics import StateMetrics
from guidsvc.telemetry.tracing import DOWN, L1, MISS, REDIS, record_source, record_wait

QUICK_SECONDS = 0.0001
"""A request within this time is quick: the first bound of LATENCIES."""
LATENCIES = (QUICK_SECONDS, *(each * 10.0**power for power in (-4, -3, -2, -1, 0) for each in (2.5, 5, 10)))
"""Histogram bounds in seconds, up to 10."""
SIZES = tuple(2.0**power for power in range(10))
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Histogram bounds in seconds. Timers are not exact below a millisecond."""
LATENESS = (1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0)
"""Histogram bounds in seconds."""


class Exemplar(NamedTuple):
    """An observation with the ID of its trace, and when it was made, in Unix seconds."""

    trace_id: str
    value: float
    timestamp: float


class Histogram:
    """A histogram: the number of observations per bucket, with one bucket beyond the last bound, and their sum.

    `exemplars` has the last exported observation of a bucket, by its position.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        """Record an observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_many(self, value: float, count: int, elapsed: float) -> None:  # noqa: ARG002  # see Latency
        """Record a number of observations of the same value; `elapsed` is the time that passed for all of them."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += count * value


class Latency(Histogram):
    """The latency of a part of the service, in seconds; also recorded in the trace of the current request."""

    __slots__ = ("_operation", "_part")

    def __init__(self, part: str, operation: str = "") -> None:
        super().__init__(LATENCIES)
        self._part = part
        self._operation = operation

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1  # as `Histogram.observe`, without the call
        self.sum += value
        record_wait(self._part, value, self._operation)

    def observe_many(self, value: float, count: int, elapsed: float) -> None:
        super().observe_many(value, count, elapsed)
        record_wait(self._part, count * value, self._operation, count, elapsed)


class FastCounter:
    """A counter of one kind of requests, answered within QUICK_SECONDS: counting must cost next to nothing."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


_Kind = tuple[str, str, int]  # route, method, status


class RequestMetrics:
    """Answered requests by route, method and status. Clients cannot invent values of these."""

    def __init__(self) -> None:
        self.refused: Counter[int] = Counter()
        """Malformed requests and connections over the limit, by status."""
        self.in_flight: Callable[[], int] = int
        self.in_progress: Callable[[], int] = int
        """Requests, and parts of batches, that hold an admission slot."""
        self.waiting: Callable[[], int] = int
        """Requests that wait for an admission slot."""
        self.undone: Callable[[], Mapping[str, int]] = dict
        """Requests rejected or cancelled, by reason."""
        self._counts: dict[_Kind, int] = {}
        self._latencies: dict[str, Histogram] = {}
        self._quick: dict[_Kind, FastCounter] = {}

    def record(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        kind = (route, method, status)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        latency = self._latencies.get(route)
        if latency is None:
            latency = self._latencies[route] = Histogram(LATENCIES)
        latency.observe(seconds)

    def record_trace(self, route: str, seconds: float, trace_id: str) -> None:
        """Make a counted request whose trace is exported the exemplar of its bucket."""
        latency = self._latencies.get(route)
        if latency is None:  # the route has only quick requests so far
            latency = self._latencies[route] = Histogram(LATENCIES)
        latency.exemplars[bisect_left(LATENCIES, seconds)] = Exemplar(trace_id, seconds, time())

    def quick(self, route: str, method: str, status: int) -> FastCounter:
        """Return the counter for quick requests of a kind, which replaces `record` for them."""
        return self._quick.setdefault((route, method, status), FastCounter())

    def counts(self) -> Mapping[_Kind, int]:
        """Return the number of requests by kind."""
        return self._counts | {
            kind: self._counts.get(kind, 0) + quick.count for kind, quick in self._quick.items() if quick.count
        }

    def latencies(self) -> Mapping[str, Histogram]:
        """Return the latency histograms by route, with the quick requests in the first bucket."""
        merged = dict(self._latencies)
        for (route, _, _), quick in self._quick.items():
            histogram, known = Histogram(LATENCIES), merged.get(route)
            if known is not None:
                histogram.counts, histogram.sum = known.counts.copy(), known.sum
                histogram.exemplars = known.exemplars
            histogram.counts[0] += quick.count
            histogram.sum += quick.seconds
            merged[route] = histogram
        return merged


class BatchMetrics:
    """Batch sizes, and the number of items that wait to be sent.

    `part` and `operation` name the span of a batch; batches of no part have none.
    """

    def __init__(self, part: str = "", operation: str = "") -> None:
        self.part = part
        self.operation = operation
        self.sizes = Histogram(SIZES)
        self.waiting: Callable[[], int] = int


class CacheMetrics:
    """Reads by the source of the record; with Redis, also the state of its connection and of the cache fence."""

    __slots__ = ("batch", "changes", "l1_hits", "misses", "mode", "on_failure", "redis_hits", "redis_latency", "up")

    def __init__(self) -> None:
        self.l1_hits = self.redis_hits = self.misses = 0
        self.redis_latency = Latency("redis")
        self.batch = BatchMetrics(REDIS, "batch")
        self.up: bool | None = None
        """Whether the cache uses Redis; None if Redis is not configured."""
        self.mode: str | None = None
        self.changes = 0
        self.on_failure: Callable[[], None] | None = None
        """Called when the connection to Redis has failed."""

    def l1(self) -> None:
        """Count a read served from the memory of this process."""
        self.l1_hits += 1
        record_source(L1)

    def redis(self) -> None:
        """Count a read served from Redis."""
        self.redis_hits += 1
        record_source(REDIS)

    def miss(self) -> None:
        """Count a read served from the store."""
        self.misses += 1
        record_source(self.store)

    def unavailable(self) -> None:
        """Count a read served from the store because Redis failed during the read."""
        self.misses += 1
        record_source(DOWN)

    @property
    def store(self) -> str:
        """The source of a record from the store: it says whether Redis, if there is one, is down."""
        return DOWN if self.up is False else MISS

    def source(self, misses: int) -> str:
        """Return the source of a record that a peek found; `misses` is the miss count before the peek."""
        return L1 if self.misses == misses else self.store

    def link(self, *, up: bool) -> None:
        """Record whether the cache uses Redis from now on."""
        self.up = up
        if not up and self.on_failure is not None:
            self.on_failure()

    def fence(self, mode: str) -> None:
        """Record the mode of the fence: on, arm or off."""
        if self.mode is not None and mode != self.mode:
            self.changes += 1
        self.mode = mode


_OTHER_OPERATIONS = (
    *("receipt_get", "receipt_swap", "receipt_usage"),
    *("api_key_get", "api_key_swap", "api_key_list"),
    *("ledger_get", "ledger_swap"),
)
"""The operations on receipts, API keys and quota ledgers."""


class EventMetrics:
    """The event log. Its entries are counted by the one thread that writes the store; all else on the event loop."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Entries that this process has appended, by kind."""
        self.lag_seconds = 0.0
        """Seconds for which the oldest due step of the schedule has been waiting."""
        self.size_bytes = 0
        self.oldest_seconds = 0.0
        """The age of the oldest entry."""


class StoreMetrics:
    """Store operations, batches and purges."""

    def __init__(self) -> None:
        of_records = {operation: Latency("store", operation) for operation in ("get", "swap", "find", "count", "fence")}
        # Only waits for records and the fence count in the trace, which Server-Timing shows.
        self.latencies: dict[str, Histogram] = of_records | {name: Histogram(LATENCIES) for name in _OTHER_OPERATIONS}
        self.failures: Counter[str] = Counter(dict.fromkeys(self.latencies, 0))
        self.batches: dict[str, BatchMetrics] = {}
        self.wal_bytes: Callable[[], int] | None = None
        """The size of the write-ahead log; None if the store has none."""
        self.sequencer_lag_seconds: float | None = None
        """The age of the oldest event that is not in the log yet; None unless this process moves events to the log."""
        self.clock_skew_seconds: float | None = None
        """Seconds by which the clock of this host is ahead of that of the store; None if the store has no clock."""
        self.clock_skew_measured_at = 0.0
        """When that was measured, in Unix seconds."""
        self.damage: str | None = None
        """What is wrong with the stored data; None if no damage was found."""
        self.on_failure: Callable[[], None] | None = None
        """Called when an operation has failed."""
        self.lateness = Histogram(LATENESS)
        """For each purged record, the delay after the end of its retention, in seconds."""
        self.events = EventMetrics()

    def failed(self, operation: str) -> None:
        """Count a failed operation."""
        self.failures[operation] += 1
        if self.on_failure is not None:
            self.on_failure()

    def note_damage(self, damage: str) -> None:
        """Note what is wrong with the stored data."""
        self.damage = damage

    def batch(self, name: str) -> BatchMetrics:
        """Return the metrics of a kind of batch."""
        return self.batches.setdefault(name, BatchMetrics("store", name))


class AuditMetrics:
    """The number of audit log lines that could not be written."""

    def __init__(self) -> None:
        self.failures = 0


RENEWAL_OUTCOMES = ("renewed", "capped", "unchanged", "expired", "limited")
"""Renewed as asked, or for less; nothing changed; and rejected, as it came too late, or by the limits."""


class RenewalMetrics:
    """Renewals of leases, by outcome."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(RENEWAL_OUTCOMES, 0)


class Stopwatch:
    """A context manager that records the duration of its block."""

    __slots__ = ("_begun", "_latency")

    def __init__(self, latency: Histogram) -> None:
        self._latency = latency

    def __enter__(self) -> None:
        """Start timing."""
        self._begun = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None:
        """Record the time since the start."""
        self._latency.observe(perf_counter() - self._begun)


class Metrics:
    """All instruments of a process."""

    def __init__(self) -> None:
        self.requests = RequestMetrics()
        self.cache = CacheMetrics()
        self.store = StoreMetrics()
        self.audit = AuditMetrics()
        self.renewals = RenewalMetrics()
        self.state = StateMetrics()
        self.metric_files_left_out = 0
        """Unreadable files in the metrics folder, counted each time one is found."""
        self.lag = Histogram(LAGS)
        """Event-loop lag in seconds, sampled a few times a second."""
        self.connections: Callable[[], int] = int
        self.streams: Callable[[], int] = int
        """Open streams of events, and requests that wait for an event."""
        self.dropped_log_lines: Callable[[], int] = int
