"""OpenTelemetry: a span for each request, and a child span for each of its waits for the store or Redis.

The SDK samples spans, buffers a bounded number of them, and sends them over OTLP/HTTP in a thread of its own; if the
buffer is full, it drops spans. So a receiver that hangs or is away delays no request. The standard `OTEL_*` variables
configure all of that. Importing this module is slow, so it is imported only if traces are exported.
"""

import asyncio
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

import guidsvc
from guidsvc.errors import StartError
from guidsvc.monitoring.bounded_session import BoundedSession
from guidsvc.monitoring.logs.access_log import without_secrets
from guidsvc.telemetry import traceparent
from guidsvc.telemetry.outage import Outage
from guidsvc.telemetry.sampling import HeadSampler, policy_of
from guidsvc.telemetry.tracing import OTHER, REDIS, Completion, RequestTrace, Tracer, Wait

CLOSE_SECONDS = 1.0
"""Time at shutdown for the last spans to be sent."""
MAX_REASON = 200
"""Maximum characters of the reason why spans cannot be exported, in the log."""
_PROTOCOLS = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
_CREDENTIAL_PROVIDERS = tuple(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{kind}CREDENTIAL_PROVIDER" for kind in ("", "TRACES_"))
_PROTOCOL = "http/protobuf"
_FIRST_SERVER_ERROR = 500
_LOWER = 2**64
"""The lower half of a trace ID is less than this."""
_SECOND_NS = 1_000_000_000
_PASSWORD = re.compile(r"//[^/@\s]*@")

_log = structlog.get_logger(__name__)


def validate_environment() -> None:
    """Raise StartError if the environment asks for a protocol that is not supported."""
    for name in _PROTOCOLS:
        value = os.environ.get(name, "").strip()
        if value not in {"", _PROTOCOL}:
            raise StartError(f"tracing: {name} is {value!r}, which is not supported; set it to {_PROTOCOL}")


@asynccontextmanager
async def open_tracer(store: str) -> AsyncIterator[Tracer]:
    """Export the traces of requests while the block runs; `store` is the kind of store."""
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(ReportingExporter(_exporter())))
    try:
        yield RequestTracer(provider, store)
    finally:
        # This sends what is buffered, which takes as long as the receiver; the daemon thread does not delay the exit.
        closing = threading.Thread(target=provider.shutdown, name="close-tracer", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_SECONDS)


def _exporter() -> SpanExporter:
    """Return the exporter by the `OTEL_*` variables. A provider of credentials that they name has its own session."""
    has_provider = any(os.environ.get(name) for name in _CREDENTIAL_PROVIDERS)
    return trace_exporter.OTLPSpanExporter(session=None if has_provider else BoundedSession())


def _resource() -> Resource:
    """Return the description of this service, to which `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` add."""
    named = {"service.name": "guidsvc", "service.version": guidsvc.__version__}
    return Resource.create({**named, **OTELResourceDetector().detect().attributes})


class UnsampledTrace(RequestTrace):
    """The trace of a request that is a part of the client's trace, but not sampled: only log lines name it."""

    __slots__ = ("trace_id",)
    trace_id: str


class SpanTrace(RequestTrace):
    """The trace of a request that is sampled, with its span."""

    __slots__ = ("scheme", "span", "trace_id", "waits")

    def __init__(self, request_id: str, remote: str, span: Span, scheme: str) -> None:
        super().__init__(request_id, remote)
        self.span = span
        self.scheme = scheme
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        self.waits: list[Wait] | None = []


class SampledIds(RandomIdGenerator):
    """Random IDs below the bound of the sampler: an ID is generated only for a trace that is to be sampled."""

    def __init__(self, bound: int) -> None:
        self._bound = bound

    def generate_trace_id(self) -> int:
        upper, lower = divmod(super().generate_trace_id(), _LOWER)
        return (upper * _LOWER + lower * self._bound // _LOWER) or 1


class RequestTracer:
    """Makes the spans of requests. They have the names of OpenTelemetry's stable conventions for HTTP and databases."""

    def __init__(self, provider: TracerProvider, store: str) -> None:
        self._policy = policy_of(provider.sampler.get_description())
        self.sampler = HeadSampler(self._policy.rate)
        if self._policy.bound:
            provider.id_generator = SampledIds(self._policy.bound)
        self._tracer = provider.get_tracer("guidsvc", guidsvc.__version__)
        self._propagator = TraceContextTextMapPropagator()
        self._root = Context()
        self._store = store

    def begin(self, request_id: str, remote: str, headers: Mapping[str, str], *, secure: bool) -> RequestTrace | None:
        header = headers.get("traceparent")
        parent = None if header is None else traceparent.parse(header)
        if self.sampler.draw() if parent is None else self._policy.samples(parent):
            context = self._root if parent is None else self._propagator.extract(headers, self._root)
            span = self._tracer.start_span("HTTP", context, SpanKind.SERVER)
            if span.is_recording():  # a sampler that is not a standard one decides here
                return SpanTrace(request_id, remote, span, "https" if secure else "http")
        if parent is None:
            return None
        trace = UnsampledTrace(request_id, remote)
        trace.trace_id, _ = parent
        return trace

    def end(self, trace: RequestTrace, completion: Completion) -> None:
        if not isinstance(trace, SpanTrace) or trace.waits is None:
            return  # it is not sampled
        span = trace.span
        span.update_name(_name_of(completion))
        span.set_attributes(_attributes(trace, completion))
        if completion.status >= _FIRST_SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        parent = set_span_in_context(span, self._root)
        for wait in trace.waits:
            self._export_wait(wait, parent)
        trace.waits = None
        span.end()

    def _export_wait(self, wait: Wait, parent: Context) -> None:
        attributes: dict[str, AttributeValue] = {"db.system.name": REDIS if wait.part == REDIS else self._store}
        if wait.operation:
            attributes["db.operation.name"] = wait.operation
        if wait.calls > 1:
            attributes["db.operation.batch.size"] = wait.calls
        started_ns = wait.ended_ns - int(wait.seconds * _SECOND_NS)
        name = f"{wait.part} {wait.operation}".rstrip()
        links = [Link(trace.span.get_span_context()) for trace in wait.links if isinstance(trace, SpanTrace)]
        self._tracer.start_span(name, parent, SpanKind.CLIENT, attributes, links, started_ns).end(wait.ended_ns)


def _name_of(completion: Completion) -> str:
    method = "HTTP" if completion.method == OTHER else completion.method
    return method if completion.route == OTHER else f"{method} {completion.route}"


def _attributes(trace: SpanTrace, completion: Completion) -> Mapping[str, AttributeValue]:
    method, status = completion.method, completion.status
    attributes: dict[str, AttributeValue] = {
        "http.request.method": "_OTHER" if method == OTHER else method,
        "http.response.status_code": status,
        "url.path": without_secrets(completion.path),
        "url.scheme": trace.scheme,
        "client.address": trace.remote,
        "guidsvc.request_id": trace.request_id,
    }
    if completion.route != OTHER:
        attributes["http.route"] = completion.route
    if completion.source is not None:
        attributes["guidsvc.cache"] = completion.source
    if status >= _FIRST_SERVER_ERROR:
        attributes["error.type"] = str(status)
    return attributes


class ReportingExporter(SpanExporter):
    """An exporter that reports an outage of the receiver with one line, and its end with another."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._outage = Outage(_log, "traces cannot be exported, dropping them", "traces exported again")
        self._reason = ""
        self._library = logging.getLogger(trace_exporter.__name__)
        self._library.addFilter(self._note_reason)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  # logged; later spans must still be exported
            self._reason, result = repr(error), SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._outage.end()
        else:
            self._outage.begin(reason=_PASSWORD.sub("//", self._reason)[:MAX_REASON])
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        self._library.removeFilter(self._note_reason)

    def _note_reason(self, record: logging.LogRecord) -> bool:
        """Keep the message of the library, which would log each failure, and return False."""
        self._reason = record.getMessage()
        return False
