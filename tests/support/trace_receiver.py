"""A receiver of OpenTelemetry traces, which accepts OTLP over HTTP like a collector."""

import gzip
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.backing_servers import wait_until

MAX_ENDLESS_BYTES = 256 * 1024 * 1024
"""Bound of an endless response, which protects the machine from a client that reads without a bound."""
SERVER, CLIENT = 2, 3
"""Kinds of spans."""
ERROR = 2
"""The status of a span that failed."""


class ReceivedSpan(NamedTuple):
    """A span as it arrived."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    status: int
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    links: Sequence[tuple[str, str]]
    """The traces and the spans that it is linked to."""


class TraceReceiver:
    """Collects the spans that arrive, and responds with `status` once `is_open` is set."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.status = 200
        self.is_endless = False
        """Whether responses are endless."""
        self.sent_bytes = 0
        """Number of bytes of endless responses that were sent."""
        self.has_lost_client = threading.Event()
        """Set once a client has closed its connection before the end of a response."""
        self.is_open = threading.Event()
        self.is_open.set()
        self.exports = 0
        """Number of requests that have arrived, including those without a response."""
        self._spans: list[ReceivedSpan] = []

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make a service export each span to this receiver at once."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    @property
    def requests(self) -> list[ReceivedSpan]:
        """The spans of requests, in the order of their arrival."""
        return [span for span in list(self._spans) if span.kind == SERVER]

    def children(self, span: ReceivedSpan) -> list[ReceivedSpan]:
        """Return the children of a span, in the order of their ends."""
        children = [child for child in list(self._spans) if child.parent_id == span.span_id]
        return sorted(children, key=lambda child: child.ended_ns)

    def add(self, body: bytes) -> None:
        """Decode an export."""
        message = ExportTraceServiceRequest.FromString(body)
        for resource_spans in message.resource_spans:
            resource = _attributes(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self._spans.extend(_span(span, resource) for span in scope_spans.spans)

    def wait_for(self, count: int) -> list[ReceivedSpan]:
        """Return the spans of requests as soon as there are `count`."""
        wait_until(lambda: len(self.requests) >= count, f"{count} spans of requests")
        return self.requests


def wait_for_senders() -> None:
    """Return when no thread sends spans any more; one may outlive its service if a receiver hangs or is down."""
    wait_until(
        lambda: not any(thread.name.startswith("OtelBatch") for thread in threading.enumerate()), "the end of senders"
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _span(span: Any, resource: Mapping[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        span.status.code,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        resource,
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: TraceReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.receiver.exports += 1
        self.receiver.is_open.wait()
        if self.receiver.status == 200 and self.path == "/v1/traces":
            self.receiver.add(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        self.send_response(self.receiver.status)
        if self.receiver.is_endless:
            self._send_without_end()
            return
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_without_end(self) -> None:
        self.end_headers()
        self.close_connection = True
        try:
            while self.receiver.sent_bytes < MAX_ENDLESS_BYTES:
                self.wfile.write(b"-" * 65_536)
                self.receiver.sent_bytes += 65_536
        except OSError:
            self.receiver.has_lost_client.set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the signature of the library
        """Write nothing."""


@contextmanager
def trace_receiver(port: int = 0) -> Iterator[TraceReceiver]:
    """Run a receiver inside the block; requests that still hang get their response at the end."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    receiver = handler.receiver = TraceReceiver(server.server_address[1])  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.is_open.set()
        server.shutdown()
        server.server_close()
        thread.join()
