"""The metrics of the state of the service: part of the metric catalog."""

from guidsvc.telemetry.metric_spec import About, MetricSpec, Read, if_known
from guidsvc.telemetry.metrics import Metrics


def _records(meters: Metrics, _: About) -> Read:
    counts = meters.state.records()
    return {} if counts is None else {("live",): counts.live, ("expired",): counts.expired}


def _expiring(meters: Metrics, _: About) -> Read:
    counts = meters.state.records()
    return {} if counts is None else {("1h",): counts.within_hour, ("24h",): counts.within_day}


def _counted_at(meters: Metrics) -> float:
    counts = meters.state.records()
    return 0.0 if counts is None else counts.counted_at


def _none(_: Metrics, __: About) -> Read:
    return {}


CONNECTIONS_LIMIT = MetricSpec(
    "guidsvc_connections_limit",
    "gauge",
    "Maximum number of open connections.",
    (),
    lambda meters, _: {(): meters.state.connections_limit()},
)
STORE_WRITABLE = MetricSpec(
    "guidsvc_store_writable",
    "gauge",
    "1 while the store answers and accepts writes, else 0.",
    (),
    lambda meters, _: if_known(meters.state.is_store_writable()),
    "livemin",
)
RECORDS = (
    MetricSpec(
        "guidsvc_records",
        "gauge",
        "Records of all owners, by state, as last counted.",
        ("state",),
        _records,
        "livemostrecent",
        _counted_at,
    ),
    MetricSpec(
        "guidsvc_records_expiring",
        "gauge",
        "Live records that expire within an hour and within a day, as last counted.",
        ("within",),
        _expiring,
        "livemostrecent",
        _counted_at,
    ),
)
WORKER_DEATHS = MetricSpec(
    "guidsvc_worker_deaths_total",
    "counter",
    "Workers that exited unexpectedly, and failed attempts to restart one.",
    (),
    _none,  # the supervisor counts them, see `guidsvc.monitoring.supervisor_metrics`
)
FILES = (
    MetricSpec(
        "guidsvc_key_set_failures_total",
        "counter",
        "Reads of the key set for tokens that failed.",
        (),
        lambda meters, _: if_known(meters.state.key_set.failures),
    ),
    MetricSpec(
        "guidsvc_key_set_read_timestamp_seconds",
        "gauge",
        "Time of the last read of the key set for tokens that succeeded.",
        (),
        lambda meters, _: if_known(meters.state.key_set.read_at),
        "livemin",
    ),
    MetricSpec(
        "guidsvc_tls_certificate_not_after_timestamp_seconds",
        "gauge",
        "End of the validity of the certificate for TLS.",
        (),
        lambda meters, _: if_known(meters.state.certificate_not_after()),
        "livemin",
    ),
)
