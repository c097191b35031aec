"""The specification of a metric, for rendering."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from guidsvc.telemetry.metrics import Histogram, Metrics

Labels = tuple[str, ...]
Read = Mapping[Labels, float | Histogram]
About = Mapping[str, str]
"""Properties of a process, by name: `server`, `store` and `cache`."""


class MetricSpec(NamedTuple):
    """A metric: its name, kind, meaning and labels, and the function that reads it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: Labels
    read: Callable[[Metrics, About], Read]
    over: str = "livesum"
    """The aggregation of a gauge over several processes: a `multiprocess_mode` of prometheus_client."""
    measured_at: Callable[[Metrics], float] | None = None
    """When the value was measured, in Unix seconds. `livemostrecent` requires it: the last measurement counts."""


def if_known(value: float | None) -> Read:
    """Return the value of a metric without labels, or nothing if it is None."""
    return {} if value is None else {(): value}
