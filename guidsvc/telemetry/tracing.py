"""Request tracing: the ID of a request, the source of its record, and its waits for parts of the service.

If spans are exported, a Tracer begins and ends the trace, and each wait becomes a span.

The code that begins a request sets CURRENT. Any code below records into it without knowing the request. Without a
current trace, nothing is recorded.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from itertools import islice
from typing import NamedTuple, Protocol

from guidsvc.telemetry.sampling import HeadSampler

L1, REDIS, MISS, DOWN = "l1", "redis", "miss", "down"
"""Sources of a record: the memory of this process, Redis, or the store, after misses in both or while Redis is down."""


TRACE_HEADERS = frozenset({"traceparent", "tracestate"})
"""The headers in which a client sends its own trace (W3C Trace Context)."""
OTHER = "other"
"""The name of unknown routes, and of methods that are not served, in metrics and in a Completion."""
MAX_WAITS = 100
"""Maximum number of waits of a request that become spans."""
MAX_LINKS = 128
"""Maximum number of traces that a wait is linked to."""


class Wait(NamedTuple):
    """A wait for a part of the service: `calls` calls of an operation together, until a Unix time in nanoseconds.

    `links` are the traces of the requests that waited together.
    """

    part: str
    operation: str
    seconds: float
    ended_ns: int
    calls: int
    links: "Sequence[RequestTrace]" = ()


class RequestTrace:
    """The trace of one request. `spent` is the total wait for each part, in seconds; `remote` is the client address.

    If `is_opaque`, the response hides which parts the request waited for. For a GUID that is not found, they would
    reveal whether another owner has a record.
    """

    __slots__ = ("is_opaque", "remote", "request_id", "source", "spent")

    trace_id: str = ""
    """The ID of the trace for log lines; empty unless it is exported or came with the request."""
    waits: list[Wait] | None = None
    """The waits that become spans; None if this trace is not exported."""

    def __init__(self, request_id: str, remote: str = "") -> None:
        self.request_id = request_id
        self.remote = remote
        self.source: str | None = None
        self.spent: dict[str, float] = {}
        self.is_opaque = False


CURRENT: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)
"""The trace of the current request; None outside of one."""


def record_source(source: str) -> None:
    """Record the source of the record that the current request has read."""
    trace = CURRENT.get()
    if trace is not None:
        trace.source = source


def hide_waits() -> None:
    """Hide from the client which parts the current request waits for."""
    trace = CURRENT.get()
    if trace is not None:
        trace.is_opaque = True


def record_wait(part: str, seconds: float, operation: str = "", calls: int = 1, elapsed: float | None = None) -> None:
    """Record that the current request has waited for a part of the service.

    `seconds` is the sum over parallel calls, `elapsed` the time that passed meanwhile, if that differs.
    """
    trace = CURRENT.get()
    if trace is not None:
        trace.spent[part] = trace.spent.get(part, 0.0) + seconds
        if trace.waits is not None and len(trace.waits) < MAX_WAITS:
            trace.waits.append(Wait(part, operation, seconds if elapsed is None else elapsed, time.time_ns(), calls))


def record_shared_wait(part: str, operation: str, seconds: float, calls: int, traces: "Iterable[RequestTrace]") -> None:
    """Record a wait that requests shared, as a wait of the first of `traces` that still lasts, with links to all."""
    links = list(islice(dict.fromkeys(traces), MAX_LINKS))
    for trace in links:
        if trace.waits is not None and len(trace.waits) < MAX_WAITS:
            trace.waits.append(Wait(part, operation, seconds, time.time_ns(), calls, links))
            return


class Completion(NamedTuple):
    """How a request ended; `source` is that of its record, if one was read."""

    route: str
    method: str
    path: str
    status: int
    source: str | None


class Tracer(Protocol):
    """Begins and ends the traces that are exported."""

    sampler: HeadSampler
    """Decides about requests that are not a part of a client's trace."""

    def begin(self, request_id: str, remote: str, headers: Mapping[str, str], *, secure: bool) -> RequestTrace | None:
        """Return the trace of a request, as a part of the client's trace if `headers` name one.

        Return None if the request is not sampled, and not a part of a client's trace.
        """

    def end(self, trace: RequestTrace, completion: Completion) -> None:
        """Export the trace of an answered request, if it was sampled: then it has `waits`."""
