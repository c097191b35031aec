"""The content of /metrics after real requests, as Prometheus itself would parse it."""

import asyncio
import json
import re
import secrets
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificate
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import guidsvc
from guidsvc.telemetry.metric_catalog import METRICS
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support import promql
from tests.support.backing_servers import ROOT, Server
from tests.support.certificates import Certificate
from tests.support.factories import GUID, USER
from tests.support.http_client import hang_up, raw, read_reply
from tests.support.jwt_issuer import Signer
from tests.support.metrics import POLL_SECONDS, label_values, read, scrape, until_cached, value
from tests.support.readiness import until_ready

OPERATING = (ROOT / "docs" / "operations.md").read_text()
PATH = f"/guid/{GUID}"


async def test_metrics_count_requests_reads_and_store_operations(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination) as client:
        before = await scrape(client)
        assert (await client.put(PATH, {"user": USER})).status == 201
        for _ in range(5):
            assert (await client.get(PATH)).status == 200
        assert (await client.get("/guid/" + "F" * 32)).status == 404
        assert (await client.get("/guid")).status == 200
        assert (await client.delete(PATH)).status == 204
        after = await scrape(client)

    def increase(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    route = "/guid/{guid}"
    assert increase("guidsvc_requests_total", route=route, method="GET", status="200") == 5
    assert increase("guidsvc_requests_total", route=route, method="GET", status="404") == 1
    assert increase("guidsvc_requests_total", route=route, method="PUT", status="201") == 1
    assert increase("guidsvc_requests_total", route=route, method="DELETE", status="204") == 1
    assert increase("guidsvc_requests_total", route="/guid", method="GET", status="200") == 1
    assert increase("guidsvc_requests_total", route="/metrics", method="GET", status="200") == 1
    assert increase("guidsvc_request_duration_seconds_count", route=route) == 8
    assert 0 < increase("guidsvc_request_duration_seconds_sum", route=route) < 60
    assert increase("guidsvc_store_duration_seconds_count", operation="swap") == 2
    assert increase("guidsvc_store_duration_seconds_count", operation="find") == 1
    assert increase("guidsvc_store_duration_seconds_count", operation="get") >= 2
    assert value(after, "guidsvc_requests_in_flight") == 1, "the scrape itself"
    assert value(after, "guidsvc_connections") == 1
    store_kind = {"sqlite": "sqlite", "mongodb": "mongodb"}[combination["store_url"].partition(":")[0]]
    (build_info,) = [dict(labels) for name, labels in after if name == "guidsvc_build_info"]
    assert (build_info["version"], build_info["store"]) == (guidsvc.__version__, store_kind)


async def test_cache_reads_are_counted_by_level(serving: Serving) -> None:
    async with serving() as client:
        await client.put(PATH, {"user": USER})  # reads it, too
        for _ in range(4):
            await client.get(PATH)
        samples = await scrape(client)

    assert value(samples, "guidsvc_cache_reads_total", level="miss") == 2
    assert value(samples, "guidsvc_cache_reads_total", level="l1") == 3
    assert label_values(samples, "level") == {"l1", "miss"}, "there is no Redis"


async def test_labels_never_hold_client_input(serving: Serving, server: str) -> None:
    async with serving() as client:
        for path in (
            PATH,
            "/guid/x",
            "/a",
            "/b/c",
            "/guid/%ff",
            "/problems/nonsense",
            "/docs/nonsense",
            "//",
            "/x?y=z",
        ):
            for method in ("GET", "POST", "OPTIONS", "BREW", "FOO"):
                await client.ask(method, path, body=b"")
        await client.ask("OPTIONS", "*")
        samples = await scrape(client)

    routes = {
        "/guid",
        "/guid:batch",
        "/guid/{guid}",
        "/guid/{guid}/renewal",
        "/livez",
        "/readyz",
        "/metrics",
        "/version",
        "/openapi.json",
    }
    routes |= {"/docs", "/docs/{file}", "/problems", "/problems/{code}", "/", "*", "other"}
    assert label_values(samples, "route") <= routes
    assert {"other", "*"} <= label_values(samples, "route")
    methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}
    assert {"GET", "POST", "OPTIONS", "other"} <= label_values(samples, "method") <= methods


@pytest.mark.each_once
async def test_metrics_show_the_records_as_last_counted(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(**combination) as client:
        for life in (-1, 3600, 3601, 86_400, 86_401):
            assert (await client.post("/guid", {"user": USER, "expire": clock.seconds + life})).status == 201
        for _ in range(2):
            samples = await scrape(client)
            assert {state: value(samples, "guidsvc_records", state=state) for state in ("live", "expired")} == {
                "live": 4,
                "expired": 1,
            }
            assert value(samples, "guidsvc_records_expiring", within="1h") == 1
            assert value(samples, "guidsvc_records_expiring", within="24h") == 3
        assert value(samples, "guidsvc_store_duration_seconds_count", operation="count") == 1


@pytest.mark.both_servers
async def test_metrics_show_limits_and_the_certificate(
    serving: Serving, certificate: Certificate, tmp_path: Path, clock: FakeClock
) -> None:
    """Each metric is present only if its feature is in use, and equals what the service itself uses."""
    (tmp_path / "keys").write_text(json.dumps({"keys": [Signer("one").jwk()]}))
    tokens = {"jwt_jwks": str(tmp_path / "keys"), "jwt_issuer": "i", "jwt_audience": "a", "access": "keys"}
    async with serving(max_connections=7) as client:
        samples = await scrape(client)
        assert value(samples, "guidsvc_connections_limit") == 7
        names = {name for name, _ in samples}
        assert not any("key_set" in name or "certificate" in name or "worker" in name for name in names)
    async with serving(**certificate.settings, **tokens, public_metrics=True) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=certificate.trusting())
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        samples = read((await read_reply(reader, "GET")).body.decode())
        await hang_up(writer)
    assert value(samples, "guidsvc_key_set_read_timestamp_seconds") == clock.seconds
    assert ("guidsvc_key_set_failures_total", frozenset()) in samples
    not_after = load_pem_x509_certificate(certificate.cert.read_bytes()).not_valid_after_utc.timestamp()
    assert value(samples, "guidsvc_tls_certificate_not_after_timestamp_seconds") == not_after


async def test_metrics_show_whether_the_store_accepts_writes(
    serving: Serving, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("store rejects writes", "store file removed", "store accepts writes", "store file is back")
    path = tmp_path / "guidsvc.db"
    async with serving() as client:
        assert value(await scrape(client), "guidsvc_store_writable") == 1
        path.rename(tmp_path / "elsewhere.db")
        await until_ready(client, store="replaced")
        assert value(await scrape(client), "guidsvc_store_writable") == 0
        (tmp_path / "elsewhere.db").rename(path)
        await until_ready(client, store="up")
        assert value(await scrape(client), "guidsvc_store_writable") == 1


@pytest.mark.slow
async def test_metrics_show_whether_redis_answers(
    serving: Serving, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("redis unavailable")
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0") as client:
        await until_cached(client)
        await client.put(PATH, {"user": USER})
        samples = await scrape(client)
        while not value(samples, "guidsvc_cache_reads_total", level="redis"):
            await client.get(PATH)
            samples = await scrape(client)
        assert value(samples, "guidsvc_redis_up") == 1
        assert value(samples, "guidsvc_cache_reads_total", level="miss") >= 1
        while not value(samples, "guidsvc_cache_reads_total", level="l1"):
            await client.get(PATH)
            samples = await scrape(client)
        assert value(samples, "guidsvc_redis_duration_seconds_count") >= 4
        assert value(samples, "guidsvc_batch_items_count", batch="redis") >= 4
        own_redis.kill()
        while value(samples, "guidsvc_redis_up") == 1:
            await asyncio.sleep(POLL_SECONDS)
            await client.get(PATH)
            samples = await scrape(client)
        assert ("guidsvc_redis_up", frozenset()) in samples


@pytest.mark.parametrize("server", ["httptools"])  # the other one says nothing of it to anybody
async def test_malformed_request_is_counted(serving: Serving) -> None:
    async with serving() as client:
        await raw(client, b"nonsense\r\n\r\n")
        samples = await scrape(client)

    assert value(samples, "guidsvc_refused_total", status="400") == 1


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        ("text/plain;version=x", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
async def test_media_type_follows_accept(serving: Serving, accept: str | None, media_type: str) -> None:
    async with serving() as client:
        await client.get(PATH)
        reply = await client.get("/metrics", headers={} if accept is None else {"Accept": accept})
        head = await client.ask("HEAD", "/metrics", headers={} if accept is None else {"Accept": accept})

    assert (reply.status, reply.headers["Content-Type"], reply.headers["Vary"]) == (200, media_type, "Accept")
    assert (head.status, head.headers["Content-Type"]) == (200, media_type)
    text = reply.body.decode()
    families = read_openmetrics(text) if "openmetrics" in media_type else text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert "guidsvc_requests" in {family.name for family in families}


async def test_metrics_hold_no_client_data_or_secrets(serving: Serving, redis_base: str) -> None:
    secret = secrets.token_hex(8)
    async with serving(cache_url=f"{redis_base}?client_name={secret}") as client:
        await client.put(PATH, {"user": secret, "metadata": {secret: secret}}, headers={"X-Request-Id": secret})
        await client.get(f"{PATH}?{secret}=1", headers={"User-Agent": secret})
        await client.get(f"/{secret}")
        text = (await client.get("/metrics")).body.decode()

    assert secret not in text
    assert GUID not in text
    assert "127.0.0.1" not in text
    assert ".db" not in text


async def test_docs_name_exactly_the_served_metrics(serving: Serving) -> None:
    async with serving() as client:
        text = (await client.get("/metrics")).body.decode()

    documented = set(
        re.findall(r"^\| `(\w+)`", OPERATING.partition("## Metrics")[2].partition("\n## ")[0], re.MULTILINE)
    )
    assert documented == set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    expressions = "\n".join(promql.expressions())
    used_metrics = {
        re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\b(?:guidsvc|process)_\w+", expressions)
    }
    assert used_metrics
    assert used_metrics <= documented


def test_metric_names_follow_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"guidsvc(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.kind != "histogram" or metric.name.endswith(("_seconds", "_items"))
    assert len({metric.name for metric in METRICS}) == len(METRICS)
