"""Prometheus exposition of the metrics.

A single process renders its own metrics. Of several processes, each writes its metrics to files in prometheus_client's
own format, and any of them renders all files. Files of ended processes are included, because counters must not
decrease. Importing this module is slow, so it is imported on first use.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import structlog
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from guidsvc.http.headers.lists import elements
from guidsvc.monitoring import metric_files
from guidsvc.monitoring.value_file import ValueFile
from guidsvc.telemetry.metric_catalog import METRICS
from guidsvc.telemetry.metric_spec import About, Labels, MetricSpec, Read
from guidsvc.telemetry.metrics import Histogram, Metrics

Exemplars = dict[tuple[str, frozenset[tuple[str, str]]], Exemplar]
"""Exemplars by the name and the labels of their sample."""
_PROCESS = ProcessCollector(registry=None)
_PROCESS_OVER = {"process_start_time_seconds": "livemin", "process_max_fds": "livemin"}

_log = structlog.get_logger(__name__)


def media_type_of(accept: str) -> str:
    """Return the requested media type if Prometheus defines it, else that of its text format."""
    return _encoder(accept)[1]


def render(collector: Collector, accept: str) -> tuple[bytes, str]:
    """Render metrics; return the result and its media type."""
    encode, media_type = _encoder(accept)
    return encode(collector), media_type


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(",".join(elements(accept)))
    except (ValueError, TypeError):  # a version that is not a number
        return choose_encoder("")


class SingleProcessCollector(Collector):
    """The metrics of this process at the time of construction."""

    def __init__(self, meters: Metrics, about: About) -> None:
        table = (_family(spec, spec.read(meters, about)) for spec in METRICS)
        self._families = [*table, *_PROCESS.collect()]

    def collect(self) -> Iterable[Metric]:
        return self._families


class MultiProcessCollector(Collector):
    """The metrics of all processes that share a folder; raises ValueError if it is not a folder.

    The files hold no exemplars, so a bucket has the exemplar of this process, if any: one is an example for all.
    Unreadable files are left out: an empty file of a worker that was killed while creating it, or a foreign file.
    """

    def __init__(self, folder: Path, exemplars: Exemplars | None = None) -> None:
        if not folder.is_dir():
            raise ValueError(f"not a directory: {folder}")
        self._folder = folder
        self._exemplars = exemplars or {}
        self.left_out: list[str] = []
        """The names of files that could not be read."""

    def collect(self) -> Iterable[Metric]:
        with metric_files.locked(self._folder, exclusive=False):
            families, self.left_out = metric_files.read_all(self._folder)
        for family in families if self._exemplars else ():
            family.samples = [self._with_exemplar(sample) for sample in family.samples]
        return families

    def _with_exemplar(self, sample: Sample) -> Sample:
        exemplar = self._exemplars.get((sample.name, frozenset(sample.labels.items())))
        return sample if exemplar is None else sample._replace(exemplar=exemplar)


class MetricFiles:
    """The metric files of this process in a folder; counters continue from existing files of its process ID."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, ValueFile] = {}
        self._file_stats: dict[str, os.stat_result] = {}
        self._keys: dict[tuple[str, Labels], list[str]] = {}  # building a key is slower than writing its value
        self._before: dict[str, dict[str, float]] = {}  # by file: its content before this process wrote into it
        self._written: dict[str, tuple[float, float]] = {}  # values, and when they were measured

    def write(self, meters: Metrics, about: About) -> None:
        """Write the changed metrics of this process; raise OSError if that fails, as on a full disk."""
        if not all(self._is_there(name) for name in self._files):
            _log.warning("metric files missing, creating them again", folder=str(self._folder))
            self._reset()
        for spec in METRICS:
            timestamp = 0.0 if spec.measured_at is None else spec.measured_at(meters)
            for labels, value in spec.read(meters, about).items():
                keys = self._keys.get((spec.name, labels))
                if keys is None:
                    keys = self._keys[spec.name, labels] = list(_keys(spec, labels, value))
                numbers = [*value.counts, value.sum] if isinstance(value, Histogram) else [value]
                for key, number in zip(keys, numbers, strict=True):
                    self._put(_file_name(spec.kind, spec.over), key, number, timestamp)
        for metric in _PROCESS.collect():
            for sample in metric.samples:
                key = metric_files.key_of(metric.name, sample.name, sample.labels, metric.documentation)
                self._put(_file_name(metric.type, _PROCESS_OVER.get(metric.name, "livesum")), key, sample.value)
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Close the files, without removing them."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _put(self, name: str, key: str, value: float, timestamp: float = 0.0) -> None:
        if self._written.get(key) == (value, timestamp):
            return
        file, before = self._file(name), self._before.setdefault(name, {})
        if key not in before:
            before[key] = 0.0 if name.startswith("gauge") else file.value(key)
        file.set_value(key, before[key] + value, timestamp)
        self._written[key] = value, timestamp

    def _file(self, name: str) -> ValueFile:
        file = self._files.get(name)
        if file is None:
            path = self._path(name)
            file = self._files[name] = metric_files.open_file(path)
            self._file_stats[name] = path.stat()
        return file

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}_{os.getpid()}.db"

    def _is_there(self, name: str) -> bool:
        """Return whether a file is still in the folder, and not truncated."""
        try:
            now = self._path(name).stat()
        except OSError:
            return False
        before, self._file_stats[name] = self._file_stats[name], now
        return os.path.samestat(before, now) and now.st_size >= before.st_size

    def _reset(self) -> None:
        """Forget the files, so that new ones get all counts since the start of this process."""
        for name in self._files:
            if not self._is_there(name):
                self._path(name).unlink(missing_ok=True)
                self._before.pop(name, None)
        self.close()
        self._file_stats.clear()
        self._written.clear()


def _file_name(kind: str, over: str) -> str:
    """Return the name of the file for metrics of a kind, without the process ID."""
    return f"gauge_{over}" if kind == "gauge" else kind


def _family(spec: MetricSpec, read: Read) -> Metric:
    if spec.kind == "histogram":
        histogram = HistogramMetricFamily(spec.name, spec.meaning, labels=spec.labels)
        for labels, value in read.items():
            assert isinstance(value, Histogram)  # noqa: S101  # nosec B101  # guaranteed by the metric catalog
            histogram.add_metric(labels, _buckets(value), value.sum)
        return histogram
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = kind(spec.name, spec.meaning, labels=spec.labels)
    for labels, value in read.items():
        assert not isinstance(value, Histogram)  # noqa: S101  # nosec B101  # guaranteed by the metric catalog
        family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> Sequence[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Return the bound and the count of each bucket, and its exemplar if it has one."""
    buckets = list(zip(_bounds(histogram), map(float, accumulate(histogram.counts)), strict=True))
    exemplars = _exemplars(histogram)
    return [(*bucket, exemplars[bucket[0]]) if bucket[0] in exemplars else bucket for bucket in buckets]


def _exemplars(histogram: Histogram) -> Mapping[str, Exemplar]:
    """Return the exemplars by the bound of their bucket. Only the format OpenMetrics shows them."""
    bounds = _bounds(histogram) if histogram.exemplars else ()
    return {
        bounds[position]: Exemplar({"trace_id": trace_id}, value, timestamp)
        for position, (trace_id, value, timestamp) in histogram.exemplars.items()
    }


def exemplars_of(meters: Metrics, about: About) -> Exemplars:
    """Return the exemplars of this process."""
    found: Exemplars = {}
    for spec in METRICS:
        for values, value in spec.read(meters, about).items() if spec.kind == "histogram" else ():
            assert isinstance(value, Histogram)  # noqa: S101  # nosec B101  # guaranteed by the metric catalog
            for bound, exemplar in _exemplars(value).items():
                labels = dict(zip(spec.labels, values, strict=True)) | {"le": bound}
                found[f"{spec.name}_bucket", frozenset(labels.items())] = exemplar
    return found


def _keys(spec: MetricSpec, values: Labels, value: float | Histogram) -> Iterator[str]:
    """Yield the keys of a metric in files: one per bucket, and the sum; the count is that of all buckets."""
    labels = dict(zip(spec.labels, values, strict=True))
    if not isinstance(value, Histogram):
        yield metric_files.key_of(spec.name, spec.name, labels, spec.meaning)
        return
    for bound in _bounds(value):
        yield metric_files.key_of(spec.name, f"{spec.name}_bucket", labels | {"le": bound}, spec.meaning)
    yield metric_files.key_of(spec.name, f"{spec.name}_sum", labels, spec.meaning)


def _bounds(histogram: Histogram) -> Sequence[str]:
    return [*map(floatToGoString, histogram.bounds), "+Inf"]
