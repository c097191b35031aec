"""The metric catalog: the name, meaning and labels of each metric, and how to read it from the instruments.

Names follow the Prometheus conventions: base units, and `_total` for counters. Clients cannot invent label values.
"""

import platform
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import guidsvc
from guidsvc.telemetry.metrics import BatchMetrics, Histogram, Metrics
from guidsvc.telemetry.tracing import L1, MISS, REDIS

Labels = tuple[str, ...]
Read = Mapping[Labels, float | Histogram]
About = Mapping[str, str]
"""Properties of a process, by name: see `_ABOUT`."""
_ABOUT = ("server", "store", "cache")
FENCE_MODES = ("on", "arm", "off")


class MetricSpec(NamedTuple):
    """A metric: its name, kind, meaning and labels, and the function that reads it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: Labels
    read: Callable[[Metrics, About], Read]
    over: str = "livesum"
    """The aggregation of a gauge over several processes: a `multiprocess_mode` of prometheus_client."""


def _batches(meters: Metrics, about: About) -> Mapping[Labels, BatchMetrics]:
    batches: dict[Labels, BatchMetrics] = {(name,): each for name, each in meters.store.batches.items()}
    return batches | ({(REDIS,): meters.cache.batch} if about.get("cache") == REDIS else {})


def _reads(meters: Metrics, about: About) -> Read:
    cache = meters.cache
    redis: Read = {(REDIS,): cache.redis_hits} if about.get("cache") == REDIS else {}
    return {(L1,): cache.l1_hits, **redis, (MISS,): cache.misses}


def _fence(meters: Metrics, _: About) -> Read:
    now = meters.cache.mode
    return {} if now is None else {(mode,): int(mode == now) for mode in FENCE_MODES}


METRICS = (
    MetricSpec(
        "guidsvc_requests_total",
        "counter",
        "Requests that were answered.",
        ("route", "method", "status"),
        lambda meters, _: {
            (route, method, str(status)): count for (route, method, status), count in meters.requests.counts().items()
        },
    ),
    MetricSpec(
        "guidsvc_request_duration_seconds",
        "histogram",
        "From the request to its answer, whole or begun.",
        ("route",),
        lambda meters, _: {(route,): each for route, each in meters.requests.latencies().items()},
    ),
    MetricSpec(
        "guidsvc_requests_under_way",
        "gauge",
        "Requests that are being answered.",
        (),
        lambda meters, _: {(): meters.requests.under_way()},
    ),
    MetricSpec(
        "guidsvc_requests_in_progress",
        "gauge",
        "Requests, and parts of long ones, that have a place among what is done at a time.",
        (),
        lambda meters, _: {(): meters.requests.in_progress()},
    ),
    MetricSpec(
        "guidsvc_requests_waiting",
        "gauge",
        "Requests that wait for one.",
        (),
        lambda meters, _: {(): meters.requests.waiting()},
    ),
    MetricSpec(
        "guidsvc_requests_refused_total",
        "counter",
        "Requests that were not done: full (there was no place, nor room to wait), waited (for a place, in vain), "
        "overdue (their time was over), gone (their client was).",
        ("reason",),
        lambda meters, _: {(reason,): count for reason, count in meters.requests.undone().items()},
    ),
    MetricSpec(
        "guidsvc_refused_total",
        "counter",
        "What was no request that could be read, or came over one connection too many.",
        ("status",),
        lambda meters, _: {(str(status),): count for status, count in meters.requests.refused.items()},
    ),
    MetricSpec(
        "guidsvc_connections",
        "gauge",
        "Connections that are open.",
        (),
        lambda meters, _: {(): meters.connections()},
    ),
    MetricSpec(
        "guidsvc_cache_reads_total",
        "counter",
        "Reads of a record, by where it was: l1 is the memory of the process, miss the store.",
        ("level",),
        _reads,
    ),
    MetricSpec(
        "guidsvc_redis_up",
        "gauge",
        "1 while Redis is asked, 0 while it is not, as it does not answer.",
        (),
        lambda meters, _: {} if meters.cache.up is None else {(): int(meters.cache.up)},
        "livemin",
    ),
    MetricSpec(
        "guidsvc_redis_duration_seconds",
        "histogram",
        "How long a caller waited for Redis.",
        (),
        lambda meters, about: {(): meters.cache.redis_latency} if about.get("cache") == REDIS else {},
    ),
    MetricSpec(
        "guidsvc_fence",
        "gauge",
        "1 for the mode that the fence of the cache is in.",
        ("mode",),
        _fence,
    ),
    MetricSpec(
        "guidsvc_fence_changes_total",
        "counter",
        "Changes of that mode.",
        (),
        lambda meters, _: {} if meters.cache.mode is None else {(): meters.cache.changes},
    ),
    MetricSpec(
        "guidsvc_store_duration_seconds",
        "histogram",
        "How long an operation of the store took, queues included.",
        ("operation",),
        lambda meters, _: {(name,): each for name, each in meters.store.latencies.items()},
    ),
    MetricSpec(
        "guidsvc_store_failures_total",
        "counter",
        "Operations of the store that failed.",
        ("operation",),
        lambda meters, _: {(name,): count for name, count in meters.store.failures.items()},
    ),
    MetricSpec(
        "guidsvc_batch_items",
        "histogram",
        "How many calls went out as one: to commit or insert records, to query them, to Redis.",
        ("batch",),
        lambda meters, about: {name: each.sizes for name, each in _batches(meters, about).items()},
    ),
    MetricSpec(
        "guidsvc_queue_items",
        "gauge",
        "How many wait to go out.",
        ("batch",),
        lambda meters, about: {name: each.waiting() for name, each in _batches(meters, about).items()},
    ),
    MetricSpec(
        "guidsvc_store_wal_bytes",
        "gauge",
        "Size of the write-ahead log of the SQLite file.",
        (),
        lambda meters, _: {} if meters.store.wal_bytes is None else {(): meters.store.wal_bytes()},
        "livemax",
    ),
    MetricSpec(
        "guidsvc_purged_records_total",
        "counter",
        "Records past their retention that this service has deleted. MongoDB deletes them by itself.",
        (),
        lambda meters, _: {(): sum(meters.store.lateness.counts)},
    ),
    MetricSpec(
        "guidsvc_purge_lateness_seconds",
        "histogram",
        "How long after the end of their retention they were.",
        (),
        lambda meters, _: {(): meters.store.lateness},
    ),
    MetricSpec(
        "guidsvc_audit_failures_total",
        "counter",
        "Lines of the audit log that could not be written; they are in the log.",
        (),
        lambda meters, _: {(): meters.audit.failures},
    ),
    MetricSpec(
        "guidsvc_log_lines_dropped_total",
        "counter",
        "Lines of the log that were dropped, because standard error did not take them.",
        (),
        lambda meters, _: {(): meters.dropped_log_lines()},
    ),
    MetricSpec(
        "guidsvc_metric_files_left_out_total",
        "counter",
        "Files in the shared folder of metrics that were left out, because they could not be read.",
        (),
        lambda meters, _: {(): meters.metric_files_left_out},
    ),
    MetricSpec(
        "guidsvc_event_loop_lag_seconds",
        "histogram",
        "How late the event loop was, a few times a second.",
        (),
        lambda meters, _: {(): meters.lag},
    ),
    MetricSpec(
        "guidsvc_build_info",
        "gauge",
        "1; what is running is in the labels.",
        ("version", "python", *_ABOUT),
        lambda _, about: {
            (guidsvc.__version__, platform.python_version(), *(about.get(name, "") for name in _ABOUT)): 1
        },
        "livemax",
    ),
)
