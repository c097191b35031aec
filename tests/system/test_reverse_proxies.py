"""The examples of deploy/proxies in front of the service.

Each installed proxy runs with its example. Tests of the text of an example run without the program.
"""

import asyncio
import json
import re
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPMessage, HTTPResponse, HTTPSConnection, RemoteDisconnected
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from guidsvc.api.parsing.query import MAX_VALUE_BYTES
from guidsvc.config import Settings
from guidsvc.domain.record import MAX_USER_CHARACTERS
from guidsvc.http.constants import CLIENT_CLOSED_REQUEST
from tests.support import metrics
from tests.support.backing_servers import START_SECONDS, Server, Service, service, wait_until
from tests.support.certificates import Certificate
from tests.support.reverse_proxy import FILES, HOST, SERVICE, reverse_proxy, text_of
from tests.support.stream_server import stream_server

GUID = "A" * 32
FLAGS = re.compile(r"^#   guidsvc (.*)$", re.MULTILINE)
every_proxy = pytest.mark.parametrize("name", FILES)


def flags(name: str) -> list[str]:
    """Return the service flags that an example names, without access control."""
    (documented,) = FLAGS.findall(text_of(name))
    return [*str(documented).replace("--access keys", "--access off").split(), "--log-format", "json"]


class Front:
    """A proxy and the service behind it."""

    def __init__(self, proxy: Server, service_: Service, certificate: Certificate) -> None:
        self.proxy = proxy
        self.service = service_
        self._trusting: ssl.SSLContext = certificate.trusting()

    def connect(self, source: str = "127.0.0.1") -> "closing[HTTPSConnection]":
        """Return a connection to the proxy from an address of this host, to be closed."""
        return closing(
            HTTPSConnection(
                "127.0.0.1", self.proxy.port, timeout=START_SECONDS, context=self._trusting, source_address=(source, 0)
            )
        )

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> "Reply":
        """Send a request on a new connection."""
        with self.connect() as connection:
            return ask(connection, method, path, body, **headers)


class Reply(NamedTuple):
    """A response, with its whole body."""

    status: int
    headers: HTTPMessage
    body: bytes


def send(
    connection: HTTPSConnection, method: str, path: str, body: bytes | None = None, **headers: str
) -> HTTPResponse:
    """Send a request; return its response with an unread body."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Host": HOST} | fields)
    return connection.getresponse()


def ask(connection: HTTPSConnection, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    """Send a request, and read the whole response."""
    response = send(connection, method, path, body, **headers)
    return Reply(response.status, response.headers, response.read())


@contextmanager
def front(name: str, folder: Path, certificate: Certificate) -> Iterator[Front | None]:
    """Run the service behind a proxy within the block; yield None if the program is not installed."""
    with (
        service(folder, *flags(name)) as running,
        reverse_proxy(name, folder / name, running.port, certificate) as proxy,
    ):
        if proxy is None:
            yield None
            return
        pair = Front(proxy, running, certificate)
        wait_until(lambda: pair.ask("GET", "/readyz").status == 200, "the first health check", proxy.log)
        yield pair


def user(name: str) -> bytes:
    return json.dumps({"user": name}).encode()


def connections_to(port: int) -> set[str]:
    """Return the remote ends of connections to a local port, including those that ended in the last minute."""
    rows = [line.split()[1:3] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    remotes = {remote for row in rows for local, remote in (row, row[::-1]) if local.endswith(f":{port:04X}")}
    return {remote for remote in remotes if not remote.endswith(":0000")}


@every_proxy
def test_proxy_keeps_its_connections_to_the_service(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        connections_before = connections_to(proxied.service.port)
        with proxied.connect() as connection:
            for _ in range(20):
                assert ask(connection, "GET", "/guid?limit=1").status == 200
        assert len(connections_to(proxied.service.port) - connections_before) <= 5, (
            "one connection, and those of the health checks"
        )


@every_proxy
def test_conditional_requests_work_through_a_proxy(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        proxied.ask("PUT", f"/guid/{GUID}", json.dumps({"user": "alice", "metadata": {"text": "a" * 4000}}).encode())
        read = proxied.ask("GET", f"/guid/{GUID}", Accept_Encoding="gzip, br, zstd")
        tag = read.headers["ETag"]

        assert re.fullmatch(r'"\d+"', tag), "a weak tag never fulfils If-Match"
        assert "Content-Encoding" not in read.headers
        assert proxied.ask("GET", f"/guid/{GUID}", If_None_Match=tag, Accept_Encoding="gzip").status == 304
        assert proxied.ask("PUT", f"/guid/{GUID}", user("bob"), If_Match=tag).status == 200
        rejected = proxied.ask("PUT", f"/guid/{GUID}", user("carol"), If_Match=tag)
        assert (rejected.status, json.loads(rejected.body)["record"]["user"]) == (412, "bob")


@every_proxy
def test_response_with_a_large_head_passes_a_proxy(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        query = urlencode({"user": "\U0001f600" * MAX_USER_CHARACTERS, "limit": "1".zfill(MAX_VALUE_BYTES)})
        reply = proxied.ask("GET", f"/events?{query}")
        assert (reply.status, query[-MAX_VALUE_BYTES:] in reply.headers["Link"]) == (200, True)


@every_proxy
def test_compression_of_the_service_passes_a_proxy(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        packed = proxied.ask("GET", "/openapi.json", Accept_Encoding="gzip")
        assert packed.headers["Content-Encoding"] == "gzip"
        revalidated = proxied.ask("GET", "/openapi.json", Accept_Encoding="gzip", If_None_Match=packed.headers["ETag"])
        assert revalidated.status == 304


@every_proxy
@pytest.mark.parametrize(
    ("accepted", "query"),
    [("text/event-stream", "from=now"), ("application/x-ndjson", "from=now&follow=true")],
    ids=["sse", "lines"],
)
def test_events_pass_a_proxy_at_once(
    tmp_path: Path, certificate: Certificate, name: str, accepted: str, query: str
) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        with proxied.connect() as connection:
            stream = send(connection, "GET", f"/events?{query}", Accept=accepted)
            assert stream.status == 200
            for number in range(3):
                proxied.ask("PUT", f"/guid/{number:032X}", user("alice"))
                while f"{number:032X}".encode() not in stream.readline():
                    assert not stream.isclosed()
            stream.close()


@every_proxy
def test_long_poll_passes_a_proxy(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied, ThreadPoolExecutor() as pool:
        if proxied is None:
            return
        long_poll = pool.submit(proxied.ask, "GET", "/events?from=now&wait=30")
        time.sleep(0.5)  # so that the poll waits; the test also passes if it does not
        deadline = time.monotonic() + START_SECONDS
        while not long_poll.done() and time.monotonic() < deadline:
            proxied.ask("PUT", "/guid", user("alice"))
            time.sleep(0.2)
        assert json.loads(long_poll.result().body)["items"]


@every_proxy
def test_service_learns_that_a_client_has_gone(tmp_path: Path, certificate: Certificate, name: str) -> None:
    """Otherwise what the client has broken off would count against its owner until it ends."""
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        with proxied.connect() as connection:
            connection.request("GET", "/events?from=now&wait=30", headers={"Host": HOST, "X-Request-Id": "gone"})
            wait_until(lambda: waits(proxied.service.port) == 1, "the request", proxied.service.log)
        wait_until(lambda: bool(log_lines(proxied, "gone")), "the line of the request", proxied.service.log)
        assert [line["status"] for line in log_lines(proxied, "gone")] == [CLIENT_CLOSED_REQUEST]


def waits(port: int) -> int:
    """Return the number of requests that wait for an event of a service."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)) as connection:
        connection.request("GET", "/metrics")
        samples = metrics.read(connection.getresponse().read().decode())
    return int(metrics.value(samples, "guidsvc_streams"))


def log_lines(proxied: Front, request_id: str) -> list[dict[str, object]]:
    """Return the lines that the service has logged about a request."""
    json_lines = (line for line in proxied.service.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in map(json.loads, json_lines) if line.get("request_id") == request_id]


@every_proxy
def test_large_bodies_get_413_and_batches_of_lines_do_not(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        rejected = proxied.ask("PUT", f"/guid/{GUID}", b" " * 70_000 + user("alice"), Content_Type="application/json")
        assert (rejected.status, json.loads(rejected.body)["code"]) == (413, "too-large")
        operation = {"op": "put", "user": "alice", "metadata": {"text": "a" * 15_000}}
        line = json.dumps(operation).encode() + b"\n"
        batch = proxied.ask("POST", "/guid:batch", line * 400, Content_Type="application/x-ndjson")
        assert (batch.status, batch.body.count(b'"status":201')) == (200, 400), batch.body[:300]


@every_proxy
def test_service_logs_the_client_and_its_scheme(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        with proxied.connect("127.0.0.2") as connection:
            reply = ask(connection, "GET", f"/guid/{GUID}", X_Forwarded_For="192.0.2.7")
        assert reply.headers["Strict-Transport-Security"].startswith("max-age=")
        lines = partial(log_lines, proxied, reply.headers["X-Request-Id"])
        wait_until(lambda: bool(lines()), "the line of the request", proxied.service.log)
        assert [line["remote"] for line in lines()] == ["127.0.0.2"], "clients cannot forge the address"


@every_proxy
def test_proxy_uses_the_service_again_after_its_restart(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        assert proxied.service.stop() == 0
        assert proxied.ask("GET", "/readyz").status in {502, 503}
        proxied.service.start()
        wait_until(lambda: proxied.ask("GET", "/readyz").status == 200, "the service", proxied.proxy.log)


@every_proxy
async def test_proxy_repeats_no_write_that_was_sent(tmp_path: Path, certificate: Certificate, name: str) -> None:
    """It may have been executed, and a `PUT /guid` creates another GUID each time. To nginx, a PUT is idempotent.

    To Go, whose HTTP client Caddy uses, so is a request without a body that has an `Idempotency-Key`.
    """
    writes, received = ["PUT", "DELETE", "POST", "PATCH", "DELETE", "DELETE"], []
    headers: list[dict[str, str]] = [{}, {}, {}, {}, {"Idempotency_Key": "a"}, {"X_Idempotency_Key": "a"}]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the proxy has closed the connection
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)\ncontent-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if head.split()[0] in writes:
                    received.append(head.split()[0])
                    return
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def write_all(port: int) -> None:
        with reverse_proxy(name, tmp_path / name, port, certificate) as proxy:
            if proxy is None:
                received.extend(writes)
                return
            for method, fields in zip(writes, headers, strict=True):
                body = None if method == "DELETE" else user("a")
                connection = HTTPSConnection(
                    "127.0.0.1", proxy.port, timeout=START_SECONDS, context=certificate.trusting()
                )
                with closing(connection), suppress(RemoteDisconnected):  # HAProxy disconnects instead of a 502
                    # The proxy keeps this connection to the service, and uses it for the write.
                    wait_until(lambda: ask(connection, "GET", "/guid").status == 200, "the upstream", proxy.log)  # noqa: B023
                    assert ask(connection, method, "/guid", body, **fields).status == 502

    async with stream_server(serve) as port:
        await asyncio.to_thread(write_all, port)
    assert received == writes


@every_proxy
def test_idempotency_key_of_a_creation_passes_a_proxy(tmp_path: Path, certificate: Certificate, name: str) -> None:
    with front(name, tmp_path, certificate) as proxied:
        if proxied is None:
            return
        for method in ("POST", "PUT"):
            headers = {"Idempotency_Key": method, "Content_Type": "application/json"}
            first, again = [proxied.ask(method, "/guid", user("a"), **headers) for _ in range(2)]
            assert (first.status, again.status, again.body) == (201, 201, first.body)
            assert again.headers["Idempotent-Replayed"] == "true"


# The text of the examples, which is checked everywhere


SETTINGS = {
    "nginx": {
        "proxy_http_version": "1.1",
        "proxy_buffering": "off",
        "gzip": "off",
        "keepalive_timeout": "60s",
        "proxy_read_timeout": "90s",
        "client_max_body_size": "4m",
        "proxy_next_upstream": "off",
        "error_page": "418 = @writes",
        "proxy_buffer_size": "12k",
        f"server {SERVICE}": "max_fails=0",
    },
    "haproxy": {
        "timeout server": "90s",
        "timeout client": "90s",
        "retry-on": "conn-failure",
        "http-reuse": "safe",
        "option": "abortonclose",
    },
    "caddy": {
        "keepalive": "60s",
        "versions": "1.1",
        "max_size": "4MiB",
        "compression": "off",
        "protocols": "h1 h2",
        "@deletions": "method DELETE",
        "request_header": "@deletions -Idempotency-Key",
        "request_header @deletions": "-X-Idempotency-Key",
    },
}


def lines_of(name: str) -> list[str]:
    """Return the lines of an example without comments, spaces around, and semicolons."""
    lines = (line.split("#")[0].strip().rstrip(";") for line in text_of(name).splitlines())
    return [line for line in lines if line]


@every_proxy
def test_example_has_the_settings_that_the_service_needs(name: str) -> None:
    lines = lines_of(name)

    assert [line for line in lines if SERVICE in line]
    for setting, value in SETTINGS[name].items():
        assert f"{setting} {value}" in lines, setting


@every_proxy
def test_proxy_offers_no_http_3(tmp_path: Path, certificate: Certificate, name: str) -> None:
    """Caddy would accept early data on it, which whoever records it can send again."""
    with front(name, tmp_path, certificate) as proxied:
        if proxied is not None:
            assert "Alt-Svc" not in proxied.ask("GET", "/guid").headers


@every_proxy
def test_example_enables_no_early_data(name: str) -> None:
    assert not re.search("ssl_early_data|allow-0rtt|h3", "\n".join(lines_of(name)))


@every_proxy
def test_blocks_of_an_example_are_closed(name: str) -> None:
    text = "\n".join(lines_of(name))

    assert text.count("{") == text.count("}")
    assert max(map(len, text_of(name).splitlines())) <= 140


@every_proxy
def test_idle_connections_end_in_the_proxy_first(name: str) -> None:
    idle = {"nginx": "keepalive_timeout", "haproxy": "pool-purge-delay", "caddy": "keepalive"}[name]
    (seconds,) = re.findall(rf"\b{idle} (\d+)s", "\n".join(lines_of(name)))

    assert int(seconds) < Settings.model_fields["idle_timeout"].default
