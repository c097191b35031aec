"""What the client does with responses that are too large, cut off, or not of the service; and what it sends along."""

import asyncio
import os
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from guidsvc.api.resources.batch.document_batch import MAX_RESULT_BYTES
from guidsvc_client import (
    Disconnected,
    NotFound,
    StreamTruncated,
    Unavailable,
    UnexpectedResponse,
    Unreachable,
    transport,
)
from guidsvc_client.protocol.values import expiry_of, guid_of, seconds_of, version_of
from tests.support.backing_servers import Service
from tests.support.certificates import Certificate
from tests.support.client_in_thread import client_of
from tests.support.scripted_server import RESET, problem, response, scripted_server

GUID = "9094E4C980C74043A4B586B420E69DDF"
LINE = b'{"guid":"%b","expire":"4102444800","user":"a"}\n' % GUID.encode()
CHUNKED = b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%b\r\n"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(CHUNKED % (len(LINE), LINE), id="without its end"),
        pytest.param(CHUNKED % (len(LINE) + 9, LINE + LINE[:9]) + b"0\r\n\r\n", id="within a line"),
        pytest.param(CHUNKED % (len(LINE) + 5, LINE + b"oops\n") + b"0\r\n\r\n", id="not JSON"),
        pytest.param(CHUNKED % (len(LINE) + (1 << 21), LINE + b" " * (1 << 21)) + b"0\r\n\r\n", id="an endless line"),
    ],
)
async def test_stream_that_breaks_off_is_truncated(kind: str, stream: bytes) -> None:
    records = []
    async with scripted_server(lambda _: stream) as server, client_of(kind, server.url) as guids:
        with pytest.raises(StreamTruncated):
            async for record in guids.stream():
                records.append(record)  # noqa: PERF401  # also before it fails
        assert len(server.requests) == 1
        assert server.requests[0].headers["accept"] == "application/x-ndjson"
    assert [record.guid for record in records] == [GUID]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "no connection to the service: connection refused: nothing listens there"),
        ("http://no-such-host.invalid", "no connection to the service: its host name is not known"),
    ],
)
async def test_missing_service_is_reported_in_plain_words(kind: str, url: str, reason: str) -> None:
    async with client_of(kind, url, retries=0) as guids:
        with pytest.raises(Unreachable) as error:
            await guids.get(GUID)
    assert str(error.value).startswith(f"{reason} (request ")
    assert isinstance(error.value.__cause__, httpx2.ConnectError)


@pytest.mark.parametrize(
    ("answer", "key", "reason"),
    [
        (RESET, None, "it closed the connection"),
        (b"", None, "it closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", None, "it closed the connection, or its response is not HTTP"),
        (response(200, b"{}"), "gs_a\nb", "the request is not valid HTTP; check the characters of the key"),
    ],
    ids=["reset", "closed", "not HTTP", "bad key"],
)
async def test_broken_connection_is_reported_in_plain_words(
    kind: str, answer: bytes, key: str | None, reason: str
) -> None:
    async with scripted_server(lambda _: answer) as server, client_of(kind, server.url, key=key, retries=0) as guids:
        with pytest.raises(Disconnected) as error:
            await guids.get(GUID)
    assert str(error.value).startswith(f"the connection broke off: {reason}")
    assert "; a change may have taken effect (request " in str(error.value)
    assert isinstance(error.value.__cause__, httpx2.TransportError)


async def test_redirects_without_end_are_an_error_of_the_client(kind: str) -> None:
    made = httpx2.AsyncClient(follow_redirects=True) if kind == "async" else httpx2.Client(follow_redirects=True)
    async with scripted_server(lambda _: response(302, b"", Location="/guid/again")) as server:
        async with client_of(kind, server.url, http=made, retries=0) as guids:
            with pytest.raises(Disconnected, match="redirect the request without end"):
                await guids.get(GUID)
        await (made.aclose() if isinstance(made, httpx2.AsyncClient) else asyncio.to_thread(made.close))


@pytest.mark.parametrize(
    ("url", "variables", "are_loaded"),
    [
        ("http://a", {}, False),
        ("HTTP://a/https:", {"NO_PROXY": "b"}, False),
        ("https://a", {}, True),
        ("HTTPS://a", {}, True),
        ("http://a", {"http_proxy": "https://b"}, True),
        ("http://a", {"ALL_PROXY": "https://b"}, True),
    ],
)
async def test_authorities_are_loaded_only_for_tls(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    variables: dict[str, str],
    *,
    are_loaded: bool,
) -> None:
    """To load them takes many times as long as all else that a client does. Without them, none is trusted."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in ({"SSL_CERT_FILE": str(Certificate(tmp_path).ca)} | variables).items():
        monkeypatch.setenv(name, value)
    async with client_of(kind, url) as guids:
        http = (guids if kind == "async" else guids._inner)._http
        context = http._transport._pool._ssl_context
        assert (context.cert_store_stats()["x509_ca"] > 0) == are_loaded
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


async def test_stream_that_has_not_begun_is_opened_again(kind: str) -> None:
    answers = [problem("unavailable", 503, Retry_After="0"), CHUNKED % (len(LINE), LINE) + b"0\r\n\r\n"]
    async with scripted_server(lambda _: answers.pop(0)) as server, client_of(kind, server.url) as guids:
        assert [record.guid async for record in guids.stream()] == [GUID]


@pytest.mark.parametrize(
    "answer",
    [
        response(200, b"<html>", "text/html"),
        response(200, b"{}"),
        response(200, b"[]"),
        response(302, b"", Location="/login"),
        response(403, b"<html>", "text/html"),
        response(403, b"{}", "application/problem+json"),
        response(403, b"oops", "application/problem+json"),
    ],
)
async def test_response_of_another_server_is_unexpected(kind: str, answer: bytes) -> None:
    async with scripted_server(lambda _: answer) as server, client_of(kind, server.url) as guids:
        with pytest.raises(UnexpectedResponse, match="not one of guidsvc"):
            await guids.get(GUID)


async def test_response_has_a_bound_in_bytes(kind: str) -> None:
    large = response(200, LINE.rstrip() + b" " * (MAX_RESULT_BYTES * 2))
    async with scripted_server(lambda _: large) as server, client_of(kind, server.url, retries=0) as guids:
        with pytest.raises(Disconnected, match=f"more than {transport.MAX_REPLY_BYTES} bytes"):
            await guids.get(GUID)
        assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_largest_response_of_the_service_is_read(guids: Any) -> None:
    """A batch whose results do not all fit."""
    record = await guids.create(user="a", metadata={"a": "b" * 16_000})
    results = await guids.batch([{"op": "get", "guid": record.guid}] * 1000)
    found = [result.record for result in results if result.error is None]

    assert len(results) == 1000
    assert {each.user for each in found} == {"a"}
    assert len(found) * 16_000 > MAX_RESULT_BYTES * 0.7
    assert transport.MAX_REPLY_BYTES > MAX_RESULT_BYTES * 1.5


async def test_unready_service_says_so(kind: str) -> None:
    parts = {"ready": False, "store": "down", "cache": "up", "age_ms": 7, "workers": 3}
    down = problem("unavailable", 503, parts)
    async with scripted_server(lambda _: down) as server, client_of(kind, server.url) as guids:
        ready = await guids.ready()
        assert (ready.is_ready, ready.status, ready.store, ready.age_ms) == (False, "unavailable", "down", 7)
        assert ready.workers == 3
        assert len(server.requests) == 1
    busy = problem("unavailable", 503)
    async with scripted_server(lambda _: busy) as server, client_of(kind, server.url, retries=0) as guids:
        with pytest.raises(Unavailable):
            await guids.ready()


@pytest.mark.parametrize("make", [httpx2.Client, httpx2.AsyncClient])
async def test_given_http_client_stays_open(running: Service, make: Callable[[], Any]) -> None:
    http = make()
    async with client_of("sync" if make is httpx2.Client else "async", running.url, http=http) as guids:
        await guids.version()
    assert not http.is_closed
    http.close() if make is httpx2.Client else await http.aclose()


def test_trace_of_the_program_is_passed_on() -> None:
    context = SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    headers: dict[str, str] = {}
    with use_span(NonRecordingSpan(context)):
        transport.trace_injector()(headers)

    assert headers == {"traceparent": f"00-{0x1234:032x}-{0x5678:016x}-01"}


def test_program_without_opentelemetry_passes_no_trace_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "opentelemetry"] or ["opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    headers: dict[str, str] = {}
    transport.trace_injector()(headers)

    assert headers == {}


def test_values_are_rounded_up_to_seconds() -> None:
    assert expiry_of(datetime(2027, 1, 1, 0, 0, 0, 1, tzinfo=UTC)) == 1_798_761_601
    assert (*(seconds_of(each, "ttl") for each in (timedelta(milliseconds=1500), 0.2, 60)),) == (2, 1, 60)
    assert guid_of(" urn:uuid:9094e4c9-80c7-4043-a4b5-86b420e69ddf ") == GUID
    assert [version_of(etag) for etag in ('"7"', None, 'W/"7"', '"x"')] == [7, None, None, None]
    with pytest.raises(ValueError, match="expire has no time zone"):
        expiry_of(datetime(2027, 1, 1))  # noqa: DTZ001  # which is the fault


async def test_page_of_an_error_is_an_address(kind: str, running: Service) -> None:
    async with client_of(kind, running.url.replace("://", "://user:CANARY@")) as guids:
        with pytest.raises(NotFound) as raised:
            await guids.get("0" * 32)
        (result,) = await guids.batch([{"op": "delete", "guid": "0" * 32}])

    assert raised.value.page == result.error.page == f"{running.url}/problems/not-found"
    assert f"explained at {running.url}/problems/not-found" in str(raised.value)
