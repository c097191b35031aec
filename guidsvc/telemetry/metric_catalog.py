"""The metric catalog: the name, meaning and labels of each metric, and how to read it from the instruments.

Names follow the Prometheus conventions: base units, and `_total` for counters. Clients cannot invent label values.
"""

import platform
from collections.abc import Mapping

import guidsvc
from guidsvc.telemetry import state_catalog
from guidsvc.telemetry.metric_spec import About, Labels, MetricSpec, Read, if_known
from guidsvc.telemetry.metrics import BatchMetrics, Metrics
from guidsvc.telemetry.tracing import L1, MISS, REDIS

_ABOUT = ("server", "store", "cache")
FENCE_MODES = ("on", "arm", "off")


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
        "Answered requests.",
        ("route", "method", "status"),
        lambda meters, _: {
            (route, method, str(status)): count for (route, method, status), count in meters.requests.counts().items()
        },
    ),
    MetricSpec(
        "guidsvc_request_duration_seconds",
        "histogram",
        "Duration of answered requests.",
        ("route",),
        lambda meters, _: {(route,): each for route, each in meters.requests.latencies().items()},
    ),
    MetricSpec(
        "guidsvc_renewals_total",
        "counter",
        "Renewals of leases, by outcome.",
        ("outcome",),
        lambda meters, _: {(outcome,): count for outcome, count in meters.renewals.outcomes.items()},
    ),
    MetricSpec(
        "guidsvc_requests_in_flight",
        "gauge",
        "Requests in flight.",
        (),
        lambda meters, _: {(): meters.requests.in_flight()},
    ),
    MetricSpec(
        "guidsvc_requests_in_progress",
        "gauge",
        "Requests, and parts of long ones, that hold an admission slot.",
        (),
        lambda meters, _: {(): meters.requests.in_progress()},
    ),
    MetricSpec(
        "guidsvc_requests_waiting",
        "gauge",
        "Requests that wait for an admission slot, or without one for earlier writes of their GUID.",
        (),
        lambda meters, _: {(): meters.requests.waiting()},
    ),
    MetricSpec(
        "guidsvc_requests_refused_total",
        "counter",
        "Requests that were not completed, by reason: full (no slot, and no room to wait), waited (no slot in time), "
        "overdue (out of time), gone (the client disconnected).",
        ("reason",),
        lambda meters, _: {(reason,): count for reason, count in meters.requests.undone().items()},
    ),
    MetricSpec(
        "guidsvc_refused_total",
        "counter",
        "Malformed requests, and connections over the limit, by status.",
        ("status",),
        lambda meters, _: {(str(status),): count for status, count in meters.requests.refused.items()},
    ),
    MetricSpec(
        "guidsvc_connections",
        "gauge",
        "Open connections.",
        (),
        lambda meters, _: {(): meters.connections()},
    ),
    state_catalog.CONNECTIONS_LIMIT,
    MetricSpec(
        "guidsvc_streams",
        "gauge",
        "Open streams of events, and requests that wait for an event.",
        (),
        lambda meters, _: {(): meters.streams()},
    ),
    MetricSpec(
        "guidsvc_cache_reads_total",
        "counter",
        "Reads of a record, by source: l1 is the memory of the process, miss is the store.",
        ("level",),
        _reads,
    ),
    MetricSpec(
        "guidsvc_redis_up",
        "gauge",
        "1 while Redis is used, 0 while it is unavailable.",
        (),
        lambda meters, _: {} if meters.cache.up is None else {(): int(meters.cache.up)},
        "livemin",
    ),
    MetricSpec(
        "guidsvc_redis_duration_seconds",
        "histogram",
        "Time that a caller waited for Redis, including the queue.",
        (),
        lambda meters, about: {(): meters.cache.redis_latency} if about.get("cache") == REDIS else {},
    ),
    MetricSpec(
        "guidsvc_fence",
        "gauge",
        "1 for the current mode of the cache fence.",
        ("mode",),
        _fence,
    ),
    MetricSpec(
        "guidsvc_fence_changes_total",
        "counter",
        "Changes of the mode of the cache fence.",
        (),
        lambda meters, _: {} if meters.cache.mode is None else {(): meters.cache.changes},
    ),
    MetricSpec(
        "guidsvc_store_duration_seconds",
        "histogram",
        "Duration of store operations, including the queue.",
        ("operation",),
        lambda meters, _: {(name,): each for name, each in meters.store.latencies.items()},
    ),
    MetricSpec(
        "guidsvc_store_failures_total",
        "counter",
        "Failed store operations.",
        ("operation",),
        lambda meters, _: {(name,): count for name, count in meters.store.failures.items()},
    ),
    state_catalog.STORE_WRITABLE,
    MetricSpec(
        "guidsvc_batch_items",
        "histogram",
        "Calls sent in one batch.",
        ("batch",),
        lambda meters, about: {name: each.sizes for name, each in _batches(meters, about).items()},
    ),
    MetricSpec(
        "guidsvc_queue_items",
        "gauge",
        "Calls that wait to be sent in a batch.",
        ("batch",),
        lambda meters, about: {name: each.waiting() for name, each in _batches(meters, about).items()},
    ),
    MetricSpec(
        "guidsvc_store_wal_bytes",
        "gauge",
        "Size of the write-ahead log of SQLite.",
        (),
        lambda meters, _: {} if meters.store.wal_bytes is None else {(): meters.store.wal_bytes()},
        "livemax",
    ),
    *state_catalog.RECORDS,
    MetricSpec(
        "guidsvc_purged_records_total",
        "counter",
        "Records that were purged after their retention.",
        (),
        lambda meters, _: {(): sum(meters.store.lateness.counts)},
    ),
    MetricSpec(
        "guidsvc_purge_lateness_seconds",
        "histogram",
        "Time between the end of the retention and the purge.",
        (),
        lambda meters, _: {(): meters.store.lateness},
    ),
    MetricSpec(
        "guidsvc_events_total",
        "counter",
        "Events that were appended to the log.",
        ("type",),
        lambda meters, _: {(f"guid.{kind}",): count for kind, count in sorted(meters.store.events.counts.items())},
    ),
    MetricSpec(
        "guidsvc_expiry_lag_seconds",
        "gauge",
        "Time that the oldest due warning, expiry event or purge has been waiting.",
        (),
        lambda meters, _: {(): meters.store.events.lag_seconds},
        "livemax",
    ),
    MetricSpec(
        "guidsvc_events_bytes",
        "gauge",
        "Size of the event log.",
        (),
        lambda meters, _: {(): meters.store.events.size_bytes},
        "livemax",
    ),
    MetricSpec(
        "guidsvc_events_oldest_seconds",
        "gauge",
        "Age of the oldest event that readers of all owners get.",
        (),
        lambda meters, _: {(): meters.store.events.oldest_seconds},
        "livemax",
    ),
    MetricSpec(
        "guidsvc_sequencer_lag_seconds",
        "gauge",
        "Age of the oldest event that is not in the log of MongoDB yet, from the process that moves events to it.",
        (),
        lambda meters, _: if_known(meters.store.sequencer_lag_seconds),
        "livemax",
    ),
    MetricSpec(
        "guidsvc_clock_skew_seconds",
        "gauge",
        "Seconds by which the clock of the host is ahead of that of MongoDB; negative if it is behind.",
        (),
        lambda meters, _: if_known(meters.store.clock_skew_seconds),
        "livemostrecent",
        lambda meters: meters.store.clock_skew_measured_at,
    ),
    MetricSpec(
        "guidsvc_audit_failures_total",
        "counter",
        "Audit log lines that could not be written, and are in the log instead.",
        (),
        lambda meters, _: {(): meters.audit.failures},
    ),
    MetricSpec(
        "guidsvc_log_lines_dropped_total",
        "counter",
        "Log lines that were dropped because standard error did not accept them.",
        (),
        lambda meters, _: {(): meters.dropped_log_lines()},
    ),
    MetricSpec(
        "guidsvc_metric_files_left_out_total",
        "counter",
        "Files in the shared metrics folder that were skipped because they were unreadable.",
        (),
        lambda meters, _: {(): meters.metric_files_left_out},
    ),
    *state_catalog.FILES,
    state_catalog.WORKER_DEATHS,
    MetricSpec(
        "guidsvc_event_loop_lag_seconds",
        "histogram",
        "Lag of the event loop, sampled four times a second.",
        (),
        lambda meters, _: {(): meters.lag},
    ),
    MetricSpec(
        "guidsvc_build_info",
        "gauge",
        "Always 1; the labels describe the process.",
        ("version", "python", *_ABOUT),
        lambda _, about: {
            (guidsvc.__version__, platform.python_version(), *(about.get(name, "") for name in _ABOUT)): 1
        },
        "livemax",
    ),
)
