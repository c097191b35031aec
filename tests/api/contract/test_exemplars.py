"""Exemplars: the latency histogram names a trace for each of its buckets, in the format OpenMetrics."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.telemetry.metrics import LATENCIES, Metrics
from tests.conftest import Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client
from tests.support.trace_receiver import TraceReceiver

PATH = f"/guid/{GUID}"
OPEN = "application/openmetrics-text"
DURATION = "guidsvc_request_duration_seconds"


def exemplars_in(text: str) -> list[tuple[Mapping[str, str], Any]]:
    """Return the labels and the exemplar of each sample that has one."""
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return [(sample.labels, sample.exemplar) for family in families for sample in family.samples if sample.exemplar]


async def scrape(client: Client, accept: str = OPEN) -> str:
    """Return the metrics."""
    return (await client.get("/metrics", headers={"Accept": accept})).body.decode()


async def test_bucket_has_the_last_trace_of_its_requests(serving: Serving, receiver: TraceReceiver) -> None:
    async with serving(tracing="otlp") as client:
        await client.put(PATH, {"user": USER})
        for _ in range(30):
            await client.get(PATH)
        found = exemplars_in(await scrape(client))
        spans = await asyncio.to_thread(receiver.wait_for, 32)
    last = {span.attributes["http.route"]: span.trace_id for span in spans[:31]}

    assert {labels["route"] for labels, _ in found} == {"/guid/{guid}"}
    assert last["/guid/{guid}"] in {exemplar.labels["trace_id"] for _, exemplar in found}
    assert {exemplar.labels["trace_id"] for _, exemplar in found} <= {span.trace_id for span in spans}
    bounds = [0.0, *LATENCIES, float("inf")]
    for labels, exemplar in found:
        upper = float(labels["le"])
        assert bounds[bounds.index(upper) - 1] < exemplar.value <= upper
        assert spans[0].started_ns / 1e9 - 1 < float(exemplar.timestamp) < spans[-1].ended_ns / 1e9 + 1


async def test_text_format_has_no_exemplars(serving: Serving, receiver: TraceReceiver) -> None:
    async with serving(tracing="otlp") as client:
        await client.get(PATH)
        texts = [
            await scrape(client, accept) for accept in ("", "text/plain;version=0.0.4", "text/plain;version=1.0.0")
        ]
        assert exemplars_in(await scrape(client))

    assert all("trace_id" not in text and DURATION in text for text in texts)


async def test_request_without_a_trace_is_no_exemplar(
    serving: Serving, receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing is off, or the request is not sampled."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    unsampled = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
    for tracing in ("off", "otlp"):
        async with serving(tracing=tracing) as client:
            for headers in ({}, {}, unsampled):
                await client.get(PATH, headers=headers)
                await client.get("/livez", headers=headers)
            assert exemplars_in(await scrape(client)) == []


async def test_slow_request_is_the_exemplar_beyond_the_last_bound() -> None:
    """A later one replaces that of its bucket alone, also where quick requests are counted apart."""
    meters = Metrics()
    for seconds, trace_id in ((99.0, "a"), (0.02, "b"), (0.02, "c"), (0.00001, "d")):
        meters.requests.record_trace("/guid", seconds, trace_id)
    meters.requests.quick("/guid", "GET", 200).count += 1
    text, _ = await ProcessMonitor(meters).render(OPEN)
    found = {labels["le"]: exemplar.labels for labels, exemplar in exemplars_in(text.decode())}

    assert found == {"0.0001": {"trace_id": "d"}, "0.025": {"trace_id": "c"}, "+Inf": {"trace_id": "a"}}


async def test_each_of_several_processes_shows_its_own_exemplars(tmp_path: Path) -> None:
    """The shared files cannot hold them."""
    monitors = []
    for name in ("one", "other"):
        meters = Metrics()
        meters.requests.record("/guid", "GET", 200, 0.02)
        meters.requests.record_trace("/guid", 0.02, name)
        monitors.append(ProcessMonitor(meters, folder=tmp_path))
    texts = [(await monitor.render(OPEN))[0].decode() for monitor in monitors]
    plain = (await monitors[0].render(""))[0].decode()
    for monitor in monitors:
        monitor.close()

    found = [exemplars_in(text) for text in texts]
    assert [[(labels["le"], exemplar.labels) for labels, exemplar in each] for each in found] == [
        [("0.025", {"trace_id": name})] for name in ("one", "other")
    ]
    assert "trace_id" not in plain
