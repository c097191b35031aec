"""The metrics of several processes together; and how late the event loop of one is."""

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
    """Ask a service of its own process."""
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
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    livez = {"route": "/livez", "method": "GET", "status": "200"}

    def seen(running: Service) -> Samples:
        return read(fetch(running, "/metrics"))

    with ExitStack() as stack:
        one, other = [
            stack.enter_context(service(tmp_path, "--cache-url", redis_url, environment=shared)) for _ in range(2)
        ]
        for running, times in ((one, 3), (other, 4)):
            for _ in range(times):
                fetch(running, "/livez")
        for running in (one, other):
            told = partial(seen, running)
            wait_until(lambda told=told: value(told(), "guidsvc_requests_total", **livez) == 7, "the sum")  # type: ignore[misc]
        samples = seen(one)
        assert value(samples, "guidsvc_request_duration_seconds_count", route="/livez") == 7
        assert value(samples, "guidsvc_request_duration_seconds_bucket", route="/livez", le="+Inf") == 7
        assert value(samples, "process_resident_memory_bytes") > 40e6
        assert len([name for name, _ in samples if name == "guidsvc_build_info"]) == 1
        assert {"guidsvc_requests_total", "process_cpu_seconds_total"} <= {name for name, _ in samples}

        fetch(other, "/livez")
        assert other.stop() == 0, "what it counted last is handed over"
        mark_process_dead(other.process.pid, str(folder))  # type: ignore[no-untyped-call]
        after = seen(one)
        assert value(after, "guidsvc_requests_total", **livez) == 8
        assert value(after, "process_resident_memory_bytes") < value(samples, "process_resident_memory_bytes")


def test_invalid_folder_stops_the_start_with_one_line(tmp_path: Path) -> None:
    refused = pdapt(tmp_path, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "missing"))

    assert refused.returncode == 1
    assert re.fullmatch(
        r"pdapt.py: PROMETHEUS_MULTIPROC_DIR: not a directory: \S+; create it, or remove the variable\n", refused.stderr
    )


async def test_metrics_are_rendered_once_for_concurrent_scrapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a thread, and time that the loop needs too."""
    running, most, renderings, release = 0, 0, 0, threading.Event()

    def gated(told: SingleProcessCollector, accept: str) -> tuple[bytes, str]:
        nonlocal running, most, renderings
        running, renderings = running + 1, renderings + 1
        most = max(most, running)
        assert release.wait(30)
        running -= 1
        return render(told, accept)

    monkeypatch.setattr(exposition, "render", gated)
    watch = ProcessMonitor(Metrics())
    asked = [
        asyncio.create_task(watch.render(each)) for each in ("", "application/openmetrics-text", "text/plain") * 20
    ]
    async with asyncio.timeout(30):
        while not running:
            await asyncio.sleep(0.001)
        asked[0].cancel()
        await asyncio.sleep(0)
        release.set()
        answers = await asyncio.gather(*asked[1:])
    assert len({media_type for _, media_type in answers}) == renderings == 2
    assert most == 1
    await watch.render("")
    assert renderings == 3, "who asks later is told what is so later"
    watch.close()


async def test_files_match_the_meters(folder: Path) -> None:
    meters, about = Metrics(), {"server": "a", "store": "b", "cache": "redis"}
    meters.requests.record("/guid", "GET", 200, 0.02)
    meters.requests.record("/guid", "PUT", 200, 20)
    meters.requests.quick("/guid", "GET", 200).count += 3
    meters.cache.link(up=False)
    meters.cache.redis()
    meters.cache.redis_latency.observe(0.001)
    for mode in ("off", "arm", "arm", "on"):
        meters.cache.fence(mode)
    meters.store.batch("commit").sizes.observe(3)
    watch = ProcessMonitor(meters, folder=folder, about=about)
    for _ in range(2):
        watch.publish()
    watch.close()
    alone, together = (
        read(render(told, "")[0].decode())
        for told in (SingleProcessCollector(meters, about), MultiProcessCollector(folder))
    )

    ours = {key for key in alone if key[0].startswith("guidsvc_")}
    assert {key: alone[key] for key in ours} == {key: together[key] for key in together if key[0].startswith("guidsvc")}
    assert {name for name, _ in alone} == {name for name, _ in together}
    assert value(alone, "guidsvc_requests_total", route="/guid", method="GET", status="200") == 4
    assert value(alone, "guidsvc_request_duration_seconds_bucket", route="/guid", le="10.0") == 4
    assert [value(alone, "guidsvc_fence", mode=mode) for mode in ("on", "arm", "off")] == [1, 0, 0]
    assert value(alone, "guidsvc_fence_changes_total") == 2
    assert value(alone, "guidsvc_redis_up") == 0


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
    keeping = asyncio.create_task(watch.run())
    while not sum(watch.meters.lag.counts):
        await asyncio.sleep(0.01)
    assert watch.meters.lag.sum < 0.25 * sum(watch.meters.lag.counts)
    lag, seen = watch.meters.lag, sum(watch.meters.lag.counts)
    deadline = asyncio.get_running_loop().time() + 1
    while asyncio.get_running_loop().time() < deadline:
        pass  # which holds up all else
    while sum(lag.counts) == seen:
        await asyncio.sleep(0.01)
    keeping.cancel()
    assert lag.sum > 0.5
