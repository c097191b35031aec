"""The merged metrics of several processes, and the lag of an event loop."""

import asyncio
import re
import threading
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.multiprocess import mark_process_dead

from guidsvc.monitoring import prometheus as exposition
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.monitoring.prometheus import MultiProcessCollector, SingleProcessCollector, render
from guidsvc.telemetry.metrics import Metrics
from tests.conftest import ExpectedLogs
from tests.support.backing_servers import Service, pdapt, service, wait_until
from tests.support.metrics import Samples, read, value


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


def fetch(running: Service, path: str, **options: str) -> str:
    """Request a path from the service."""
    with urllib.request.urlopen(urllib.request.Request(f"{running.url}{path}", **options), timeout=30) as reply:  # type: ignore[arg-type]
        text: bytes = reply.read()
        return text.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shared = tmp_path / "metrics"
    shared.mkdir()
    return shared


@pytest.mark.slow
def test_any_process_reports_the_metrics_of_all(tmp_path: Path, folder: Path, redis_url: str) -> None:
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    livez = {"route": "/livez", "method": "GET", "status": "200"}

    def scrape_samples(running: Service) -> Samples:
        return read(fetch(running, "/metrics"))

    with ExitStack() as stack:
        first, second = [
            stack.enter_context(service(tmp_path, "--cache-url", redis_url, environment=environment)) for _ in range(2)
        ]
        for running, count in ((first, 3), (second, 4)):
            for _ in range(count):
                fetch(running, "/livez")
        for running in (first, second):
            scrape = partial(scrape_samples, running)
            wait_until(lambda scrape=scrape: value(scrape(), "guidsvc_requests_total", **livez) == 7, "the sum")  # type: ignore[misc]
        samples = scrape_samples(first)
        assert value(samples, "guidsvc_request_duration_seconds_count", route="/livez") == 7
        assert value(samples, "guidsvc_request_duration_seconds_bucket", route="/livez", le="+Inf") == 7
        assert value(samples, "process_resident_memory_bytes") > 40e6
        assert len([name for name, _ in samples if name == "guidsvc_build_info"]) == 1
        assert {"guidsvc_requests_total", "process_cpu_seconds_total"} <= {name for name, _ in samples}

        fetch(second, "/livez")
        assert second.stop() == 0, "its last counts are written on exit"
        mark_process_dead(second.process.pid, str(folder))  # type: ignore[no-untyped-call]
        later_samples = scrape_samples(first)
        assert value(later_samples, "guidsvc_requests_total", **livez) == 8
        assert value(later_samples, "process_resident_memory_bytes") < value(samples, "process_resident_memory_bytes")


def test_invalid_folder_stops_the_start_with_one_line(tmp_path: Path) -> None:
    result = pdapt(tmp_path, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "missing"))

    assert result.returncode == 1
    assert re.fullmatch(
        r"pdapt.py: PROMETHEUS_MULTIPROC_DIR: not a directory: \S+; create it, or remove the variable\n", result.stderr
    )


async def test_metrics_are_rendered_once_for_concurrent_scrapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rendering takes a thread, and time of the event loop."""
    running, max_running, renderings, release = 0, 0, 0, threading.Event()

    def gated(collector: SingleProcessCollector, accept: str) -> tuple[bytes, str]:
        nonlocal running, max_running, renderings
        running, renderings = running + 1, renderings + 1
        max_running = max(max_running, running)
        assert release.wait(30)
        running -= 1
        return render(collector, accept)

    monkeypatch.setattr(exposition, "render", gated)
    watch = ProcessMonitor(Metrics())
    scrapes = [
        asyncio.create_task(watch.render(accept)) for accept in ("", "application/openmetrics-text", "text/plain") * 20
    ]
    async with asyncio.timeout(30):
        while not running:
            await asyncio.sleep(0.001)
        scrapes[0].cancel()
        await asyncio.sleep(0)
        release.set()
        responses = await asyncio.gather(*scrapes[1:])
    assert len({media_type for _, media_type in responses}) == renderings == 2
    assert max_running == 1
    await watch.render("")
    assert renderings == 3, "a later scrape renders again"
    watch.close()


async def test_files_match_the_meters(folder: Path) -> None:
    meters, build = Metrics(), {"server": "a", "store": "b", "cache": "redis"}
    meters.requests.record("/guid", "GET", 200, 0.02)
    meters.requests.record("/guid", "PUT", 200, 20)
    meters.requests.quick("/guid", "GET", 200).count += 3
    meters.cache.link(up=False)
    meters.cache.redis()
    meters.cache.redis_latency.observe(0.001)
    for mode in ("off", "arm", "arm", "on"):
        meters.cache.fence(mode)
    meters.store.batch("commit").sizes.observe(3)
    watch = ProcessMonitor(meters, folder=folder, about=build)
    for _ in range(2):
        watch.publish()
    watch.close()
    single, merged = (
        read(render(collector, "")[0].decode())
        for collector in (SingleProcessCollector(meters, build), MultiProcessCollector(folder))
    )

    own_keys = {key for key in single if key[0].startswith("guidsvc_")}
    assert {key: single[key] for key in own_keys} == {
        key: merged[key] for key in merged if key[0].startswith("guidsvc")
    }
    assert {name for name, _ in single} == {name for name, _ in merged}
    assert value(single, "guidsvc_requests_total", route="/guid", method="GET", status="200") == 4
    assert value(single, "guidsvc_request_duration_seconds_bucket", route="/guid", le="10.0") == 4
    assert [value(single, "guidsvc_fence", mode=mode) for mode in ("on", "arm", "off")] == [1, 0, 0]
    assert value(single, "guidsvc_fence_changes_total") == 2
    assert value(single, "guidsvc_redis_up") == 0


async def test_counts_continue_from_a_dead_process_with_the_same_pid(folder: Path) -> None:
    for _ in range(2):
        meters = Metrics()
        meters.requests.record("/guid", "GET", 200, 0.02)
        watch = ProcessMonitor(meters, folder=folder)
        watch.publish()
        watch.close()

    samples = read(render(MultiProcessCollector(folder), "")[0].decode())
    assert value(samples, "guidsvc_requests_total", route="/guid", method="GET", status="200") == 2
    assert value(samples, "guidsvc_request_duration_seconds_count", route="/guid") == 2


async def test_unwritable_metrics_are_logged_once_and_harm_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("metrics cannot be written")
    watch = ProcessMonitor(folder=folder / "gone")
    for _ in range(3):
        watch.publish()

    assert len([each for each in caplog.records if "cannot be written" in each.getMessage()]) == 1


async def test_event_loop_lag_is_measured() -> None:
    watch = ProcessMonitor()
    task = asyncio.create_task(watch.run())
    while not sum(watch.meters.lag.counts):
        await asyncio.sleep(0.01)
    assert watch.meters.lag.sum < 0.25 * sum(watch.meters.lag.counts)
    lag, samples = watch.meters.lag, sum(watch.meters.lag.counts)
    deadline = asyncio.get_running_loop().time() + 1
    while asyncio.get_running_loop().time() < deadline:
        pass  # block the event loop
    while sum(lag.counts) == samples:
        await asyncio.sleep(0.01)
    task.cancel()
    assert lag.sum > 0.5
