"""Traces: what a receiver of OpenTelemetry gets of each request, on every path that a request can take."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from guidsvc.domain import api_key
from tests.conftest import ExpectedLogs, Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client
from tests.support.metrics import until_cached
from tests.support.trace_receiver import (
    CLIENT,
    ERROR,
    MAX_ENDLESS_BYTES,
    ReceivedSpan,
    TraceReceiver,
    wait_for_senders,
)

PATH = f"/guid/{GUID}"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture(autouse=True)
def _no_sender_is_left() -> Iterator[None]:
    yield
    wait_for_senders()


@pytest.fixture
async def traced(serving: Serving, receiver: TraceReceiver) -> AsyncIterator[Client]:
    async with serving(tracing="otlp") as client:
        yield client


async def received(receiver: TraceReceiver, count: int) -> list[ReceivedSpan]:
    """Return the spans of requests as soon as there are so many, without blocking the service."""
    return await asyncio.to_thread(receiver.wait_for, count)


async def received_by_name(receiver: TraceReceiver, *names: str) -> list[ReceivedSpan]:
    """Return the last span of each of these names, as soon as there is one of each."""
    spans: list[ReceivedSpan] = []
    while not {span.name for span in spans}.issuperset(names):
        spans = await received(receiver, len(spans) + 1)
    last = {span.name: span for span in spans}
    return [last[name] for name in names]


@pytest.mark.both_servers
async def test_span_of_a_request_has_the_stable_names(traced: Client, receiver: TraceReceiver, server: str) -> None:
    reply = await traced.put(PATH, {"user": USER})
    (span,) = await received(receiver, 1)

    assert (span.name, span.status, span.parent_id) == ("PUT /guid/{guid}", 0, "")
    assert span.attributes == {
        "http.request.method": "PUT",
        "http.route": "/guid/{guid}",
        "http.response.status_code": 201,
        "url.path": PATH,
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "guidsvc.request_id": reply.headers["X-Request-Id"],
    }
    assert span.resource["service.name"] == "guidsvc"
    assert span.started_ns < span.ended_ns


@pytest.mark.both_servers
async def test_every_path_of_a_request_has_one_span(traced: Client, receiver: TraceReceiver, server: str) -> None:
    heartbeat = {"ttl": 60, "if_below": 1}
    asked = [
        ("PUT", PATH, {"user": USER}, "PUT /guid/{guid} 201"),
        ("GET", PATH, None, "GET /guid/{guid} 200"),
        ("GET", PATH, None, "GET /guid/{guid} 200"),  # as the one before, so its bytes are remembered
        ("HEAD", PATH, None, "HEAD /guid/{guid} 200"),
        ("GET", f"/guid/{'F' * 32}", None, "GET /guid/{guid} 404"),
        ("GET", f"{PATH}?valid_for=60", None, "GET /guid/{guid} 200"),
        ("GET", f"{PATH}?valid_for=60", None, "GET /guid/{guid} 200"),
        ("POST", f"{PATH}/renewal", heartbeat, "POST /guid/{guid}/renewal 200"),
        ("POST", f"{PATH}/renewal", heartbeat, "POST /guid/{guid}/renewal 200"),
        ("GET", "/guid", None, "GET /guid 200"),
        ("POST", "/guid:batch", {"operations": [{"op": "get", "guid": GUID}]}, "POST /guid:batch 200"),
        ("GET", "/livez", None, "GET /livez 200"),
        ("GET", "/readyz", None, "GET /readyz 200"),
        ("GET", "/metrics", None, "GET /metrics 200"),
        ("GET", "/nowhere", None, "GET 404"),
        ("BREW", PATH, None, "HTTP /guid/{guid} 501"),
        ("DELETE", PATH, None, "DELETE /guid/{guid} 204"),
    ]
    for method, path, body, _ in asked:
        await traced.ask(method, path, json=body)
    spans = await received(receiver, len(asked))

    got = [f"{span.name} {span.attributes['http.response.status_code']}" for span in spans]
    assert got == [expected for *_, expected in asked]
    assert len({span.trace_id for span in spans}) == len(asked)
    assert [span.status == ERROR for span in spans] == [" 5" in name for name in got]


@pytest.mark.both_servers
@pytest.mark.parametrize("path", [PATH, "/guid", "/livez", "/metrics", "/nowhere", f"{PATH}?valid_for=9"])
async def test_request_continues_the_trace_of_its_client(
    traced: Client, receiver: TraceReceiver, server: str, path: str
) -> None:
    await traced.put(PATH, {"user": USER})
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=1"}
    for _ in range(2):  # the second one could be remembered
        await traced.get(path, headers=headers)
    await traced.get(path)
    spans = (await received(receiver, 4))[1:]

    assert [(span.trace_id, span.parent_id, span.trace_state) for span in spans[:2]] == [
        (TRACE, PARENT, "vendor=1"),
        (TRACE, PARENT, "vendor=1"),
    ]
    assert spans[2].trace_id != TRACE
    assert spans[2].parent_id == ""


@pytest.mark.parametrize("header", ["nonsense", f"00-{'0' * 32}-{PARENT}-01", f"{SAMPLED}, {SAMPLED}", "00-" * 500])
async def test_invalid_traceparent_begins_a_new_trace(traced: Client, receiver: TraceReceiver, header: str) -> None:
    for path in (PATH, "/metrics"):
        assert (await traced.get(path, headers={"traceparent": header})).status in {200, 404}
    spans = await received(receiver, 2)

    assert TRACE not in {span.trace_id for span in spans}
    assert {span.parent_id for span in spans} == {""}


async def test_client_that_does_not_sample_is_not_exported(traced: Client, receiver: TraceReceiver) -> None:
    await traced.get(PATH, headers={"traceparent": UNSAMPLED})
    await traced.get("/livez")
    spans = await received(receiver, 1)

    assert [span.name for span in spans] == ["GET /livez"]


@pytest.mark.parametrize("cache", ["memory", "redis"])
async def test_waits_for_store_and_redis_are_children(
    serving: Serving, receiver: TraceReceiver, redis_url: str, cache: str
) -> None:
    async with serving(tracing="otlp", cache_url=redis_url if cache == "redis" else "memory://") as client:
        await until_cached(client)
        await client.put(PATH, {"user": USER})
        await client.get(f"/guid/{'F' * 32}")
        put, get = await received_by_name(receiver, "PUT /guid/{guid}", "GET /guid/{guid}")

    assert "store swap" in {child.name for child in receiver.children(put)}
    assert ("redis" in {child.name for child in receiver.children(get)}) is (cache == "redis")
    for span, child in [(parent, child) for parent in (put, get) for child in receiver.children(parent)]:
        assert (child.kind, child.trace_id) == (CLIENT, span.trace_id)
        assert child.attributes["db.system.name"] == ("redis" if child.name == "redis" else "sqlite")
        assert span.started_ns <= child.started_ns <= child.ended_ns <= span.ended_ns


async def test_children_of_a_large_batch_are_bounded(traced: Client, receiver: TraceReceiver) -> None:
    operations = [{"op": "put", "guid": f"{number:032X}", "user": USER} for number in range(1000)]
    await traced.post("/guid:batch", {"operations": operations})
    (batch,) = await received(receiver, 1)

    assert 1 <= len(receiver.children(batch)) <= 100


async def test_log_lines_of_a_request_have_its_trace_id(
    serving: Serving, receiver: TraceReceiver, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(tracing="otlp", access_log=True, log_format="json") as client:
        for path in (PATH, "/metrics"):
            await client.get(path, headers={"traceparent": UNSAMPLED})
        await client.get("/livez")
        (span,) = await received(receiver, 1)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"event": "request"' in line]

    assert [line["trace_id"] for line in lines] == [TRACE, TRACE, span.trace_id]


async def test_spans_hold_no_key(traced: Client, receiver: TraceReceiver) -> None:
    _, key = api_key.generate("alice", ["read"], 0)
    for path in (f"/{key}", f"/guid/{key}", f"/livez?key={key}"):
        await traced.get(path, headers={"Authorization": f"Bearer {key}", "X-Request-Id": key})
    spans = await received(receiver, 3)

    assert key not in str(spans)


async def test_sampler_of_the_environment_decides(
    serving: Serving, receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "registry")
    async with serving(tracing="otlp") as client:
        await client.get("/livez", headers={"traceparent": SAMPLED})
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1")
    async with serving(tracing="otlp") as client:
        await client.get("/readyz")
        spans = await received(receiver, 1)

    assert [(span.name, span.resource["service.name"]) for span in spans] == [("GET /readyz", "registry")]


async def test_last_spans_are_sent_at_shutdown(
    serving: Serving, receiver: TraceReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    async with serving(tracing="otlp") as client:
        await client.get("/livez")
        assert receiver.exports == 0

    assert [span.name for span in await received(receiver, 1)] == ["GET /livez"]


async def test_responses_are_the_same_with_and_without_traces(serving: Serving, receiver: TraceReceiver) -> None:
    answers = []
    for tracing in ("off", "otlp"):
        async with serving(tracing=tracing) as client:
            headers = {"traceparent": SAMPLED, "X-Request-Id": "a"}
            replies = [await client.get(path, headers=headers) for path in (PATH, "/guid", "/livez", "/x")]
            answers.append([(reply.status, sorted(set(reply.headers) - {"Date"}), reply.body) for reply in replies])

    assert answers[0] == answers[1]


# A receiver that fails


async def test_receiver_that_hangs_delays_no_request(
    serving: Serving, receiver: TraceReceiver, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_logs.add("traces cannot be exported")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    receiver.is_open.clear()
    async with serving(tracing="otlp") as client:
        await client.get("/livez")
        while receiver.exports == 0:
            await asyncio.sleep(0.01)
        for _ in range(500):
            assert (await client.get("/livez")).status == 200
        assert receiver.exports == 1, "which still hangs"
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 20, "the end does not wait for it either"
    receiver.is_open.set()
    await asyncio.sleep(0)
    assert len(receiver.requests) <= 1 + 64 + 32, "the buffer is bounded"


async def test_response_of_the_receiver_has_a_bound(serving: Serving, receiver: TraceReceiver) -> None:
    receiver.is_endless = True
    async with serving(tracing="otlp") as client:
        await client.get("/livez")
        assert await asyncio.to_thread(receiver.has_lost_client.wait, 60)
    assert receiver.sent_bytes < MAX_ENDLESS_BYTES / 8, "what the buffers of the system hold"


async def test_outage_of_the_receiver_is_logged_once(
    serving: Serving, receiver: TraceReceiver, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("traces cannot be exported")
    caplog.set_level(logging.INFO)
    receiver.status = 400
    async with serving(tracing="otlp") as client:
        for exports in range(1, 4):
            await client.get("/livez")
            while receiver.exports < exports:
                await asyncio.sleep(0.01)
        receiver.status = 200
        while not receiver.requests:
            await client.get("/livez")
            await asyncio.sleep(0.05)
        while "traces exported again" not in caplog.text:
            await asyncio.sleep(0.01)

    assert len(re.findall("traces cannot be exported", caplog.text)) == 1
    assert "400" in caplog.text


async def test_receiver_that_is_away_costs_nothing_but_spans(
    serving: Serving, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected_logs.add("traces cannot be exported")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hidden@127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    async with serving(tracing="otlp") as client:
        for _ in range(50):
            assert (await client.get("/livez")).status == 200
