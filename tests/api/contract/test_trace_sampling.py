"""Sampling of traces: which requests have a span on each path, and that the others stay on the fast path."""

import asyncio
from collections.abc import Callable

import pytest

from guidsvc.api.fast_path.cached_reads import CachedReads
from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.telemetry.sampling import HeadSampler
from tests.conftest import Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client
from tests.support.metrics import until_cached
from tests.support.trace_receiver import TraceReceiver

PATH = f"/guid/{GUID}"
PARENT = f"00-{'a' * 32}-{'b' * 16}"
HEARTBEAT = {"ttl": 60, "if_below": 1}
REQUESTS = {
    "read": ("GET", PATH, None),
    "HEAD": ("HEAD", PATH, None),
    "missing record": ("GET", f"/guid/{'F' * 32}", None),
    "read with valid_for": ("GET", f"{PATH}?valid_for=60", None),
    "renewal": ("POST", f"{PATH}/renewal", HEARTBEAT),
    "list": ("GET", "/guid", None),
    "fixed answer": ("GET", "/livez", None),
    "handler": ("GET", "/metrics", None),
}


@pytest.fixture(autouse=True)
def _sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")


@pytest.fixture
def set_gap(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that fixes how many requests are skipped before each sample."""

    def fix(gap: float) -> None:
        monkeypatch.setattr(HeadSampler, "_draw_gap", lambda sampler: gap if sampler._rate < 1 else 0)

    return fix


async def sampled_ids(receiver: TraceReceiver, count: int) -> list[object]:
    """Return the request IDs of so many spans."""
    spans = await asyncio.to_thread(receiver.wait_for, count)
    return [span.attributes["guidsvc.request_id"] for span in spans]


@pytest.mark.both_servers
@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "missing record"])
async def test_each_path_asks_the_sampler_once_per_request(
    serving: Serving, receiver: TraceReceiver, set_gap: Callable[[float], None], server: str, name: str
) -> None:
    method, path, body = REQUESTS[name]
    set_gap(3)
    async with serving(tracing="otlp") as client:
        replies = [await client.put(PATH, {"user": USER})]
        replies += [await client.ask(method, path, json=body) for _ in range(15)]
        sampled = await sampled_ids(receiver, 4)

    assert sampled == [reply.headers["X-Request-Id"] for reply in replies[3::4]]


@pytest.mark.parametrize("name", ["read", "read with valid_for", "renewal"])
async def test_request_that_is_not_sampled_stays_on_the_fast_path(
    serving: Serving, receiver: TraceReceiver, set_gap: Callable[[float], None], monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:  # fmt: skip
    method, path, body = REQUESTS[name]
    set_gap(100)
    async with serving(tracing="otlp") as client:
        await client.put(PATH, {"user": USER, "ttl": 3600})
        for _ in range(2):
            await client.ask(method, path, json=body)
        with monkeypatch.context() as patch:
            patch.setattr(FastPathDispatcher, "dispatch", None)  # a parsed request would fail
            patch.setattr(CachedReads, "read", None)  # and one with a trace
            assert [(await client.ask(method, path, json=body)).status for _ in range(3)] == [200] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["read", "missing record", "read with valid_for", "renewal"])
async def test_share_of_samples_is_the_rate_beyond_the_fast_path(
    serving: Serving, receiver: TraceReceiver, redis_url: str, name: str
) -> None:
    """A request that the fast path cannot answer is begun again: that must not change its chance."""
    method, path, body = REQUESTS[name]
    count, rate = 1200, 0.25
    async with serving(tracing="otlp", cache_url=redis_url, cache_size=0) as client:
        await until_cached(client)
        await client.put(PATH, {"user": USER, "ttl": 3600}, headers={"traceparent": f"{PARENT}-00"})
        await asyncio.gather(*[ask_often(client, method, path, body, count // 8) for _ in range(8)])
        await client.get("/livez", headers={"traceparent": f"{PARENT}-01"})
        async with asyncio.timeout(30):
            while (spans := receiver.requests)[-1:] == [] or spans[-1].name != "GET /livez":
                await asyncio.sleep(0.01)
    found = len([span for span in spans if span.name not in {"GET /livez", "GET /metrics"}])

    assert abs(found - rate * count) < 5 * (count * rate * (1 - rate)) ** 0.5


async def ask_often(client: Client, method: str, path: str, body: object, count: int) -> None:
    """Send so many requests, one after the other."""
    for _ in range(count):
        await client.ask(method, path, json=body)


async def test_tracing_with_diagnostic_headers_keeps_the_rate(
    serving: Serving, receiver: TraceReceiver, set_gap: Callable[[float], None]
) -> None:
    """Each answer shows its waits, so each request has a trace; a part of them is exported."""
    set_gap(3)
    async with serving(tracing="otlp", server_timing=True) as client:
        replies = [await client.put(PATH, {"user": USER})]
        replies += [await client.get(PATH) for _ in range(11)]
        sampled = await sampled_ids(receiver, 3)

    assert sampled == [reply.headers["X-Request-Id"] for reply in replies[3::4]]
    assert all("Server-Timing" in reply.headers for reply in replies)
