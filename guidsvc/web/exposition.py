"""The metrics as Prometheus reads them.

Alone, a process tells what its meters say. Of several, each writes that into files (prometheus_client's own format),
and any of them tells of all files together: those of processes that have ended too, since what was counted must not
fall. To import this takes a while, so it is left until somebody asks.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from guidsvc.meters import Histogram, Meters
from guidsvc.web.metric_table import TABLE, About, Read, Told

_PROCESS = ProcessCollector(registry=None)
_PROCESS_OVER = {"process_start_time_seconds": "livemin", "process_max_fds": "livemin"}


def render(told: Collector, accept: str) -> tuple[bytes, str]:
    """Lay metrics out, and return their media type too: the one that is asked for, if it is one of Prometheus'."""
    try:
        encode, media_type = choose_encoder(accept)
    except (ValueError, TypeError):  # a version that is no number
        encode, media_type = choose_encoder("")
    return encode(told), media_type


class Alone(Collector):
    """The metrics of this process, as they were."""

    def __init__(self, meters: Meters, about: About) -> None:
        table = (_family(told, told.read(meters, about)) for told in TABLE)
        self._families = [*table, *_PROCESS.collect()]

    def collect(self) -> Iterable[Metric]:
        return self._families


class Together(MultiProcessCollector):
    """The metrics of all processes that have a folder in common."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None, str(folder))  # type: ignore[no-untyped-call]


class Files:
    """The files of this process in a folder: what it counts goes on from what is there already under its number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, MmapedDict] = {}
        self._before: dict[str, float] = {}

    def write(self, meters: Meters, about: About) -> None:
        """Write the metrics of this process; OSError if there is no room for them."""
        for told in TABLE:
            for name, labels, value in _samples(told, told.read(meters, about)):
                self._put(told.kind, told.over, _key(told.name, name, labels, told.meaning), value)
        for metric in _PROCESS.collect():
            for sample in metric.samples:
                over = _PROCESS_OVER.get(metric.name, "livesum")
                key = _key(metric.name, sample.name, sample.labels, metric.documentation)
                self._put(metric.type, over, key, sample.value)

    def _put(self, kind: str, over: str, key: str, value: float) -> None:
        name = f"gauge_{over}" if kind == "gauge" else kind
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = MmapedDict(str(self._folder / f"{name}_{os.getpid()}.db"))  # type: ignore[no-untyped-call]
        before = 0.0
        if kind != "gauge":
            if key not in self._before:
                self._before[key] = file.read_value(key)[0]  # type: ignore[no-untyped-call]
            before = self._before[key]
        file.write_value(key, before + value, 0.0)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the files, which stay."""
        for file in self._files.values():
            file.close()  # type: ignore[no-untyped-call]
        self._files.clear()


def _family(told: Told, read: Read) -> Metric:
    if told.kind == "histogram":
        histogram = HistogramMetricFamily(told.name, told.meaning, labels=told.labels)
        for labels, value in read.items():
            assert isinstance(value, Histogram)  # noqa: S101  # as the table has it
            buckets = list(zip(_bounds(value), map(float, accumulate(value.counts)), strict=True))
            histogram.add_metric(labels, buckets, value.sum)
        return histogram
    kind = CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily
    family = kind(told.name, told.meaning, labels=told.labels)
    for labels, value in read.items():
        assert not isinstance(value, Histogram)  # noqa: S101  # as the table has it
        family.add_metric(labels, value)
    return family


def _samples(told: Told, read: Read) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Yield the samples as files hold them: each bucket by itself, and no count, which is that of all buckets."""
    for values, value in read.items():
        labels = dict(zip(told.labels, values, strict=True))
        if not isinstance(value, Histogram):
            yield told.name, labels, value
            continue
        for bound, count in zip(_bounds(value), value.counts, strict=True):
            yield f"{told.name}_bucket", labels | {"le": bound}, count
        yield f"{told.name}_sum", labels, value.sum


def _bounds(histogram: Histogram) -> Sequence[str]:
    return [*map(floatToGoString, histogram.bounds), "+Inf"]


def _key(metric: str, sample: str, labels: Mapping[str, str], meaning: str) -> str:
    return mmap_key(metric.removesuffix("_total"), sample, list(labels), list(labels.values()), meaning)
