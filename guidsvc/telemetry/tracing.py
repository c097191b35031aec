"""Request tracing: the ID of a request, the source of its record, and its waits for parts of the service.

The code that begins a request sets CURRENT. Any code below records into it without knowing the request. Without a
current trace, nothing is recorded.
"""

from contextvars import ContextVar

L1, REDIS, MISS, DOWN = "l1", "redis", "miss", "down"
"""Sources of a record: the memory of this process, Redis, or the store, after misses in both or while Redis is down."""


class RequestTrace:
    """The trace of one request. `spent` is the total wait for each part, in seconds; `remote` is the client address.

    If `is_opaque`, the response hides which parts the request waited for. For a GUID that is not found, they would
    reveal whether another owner has a record.
    """

    __slots__ = ("is_opaque", "remote", "request_id", "source", "spent")

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


def record_wait(part: str, seconds: float) -> None:
    """Record that the current request has waited for a part of the service."""
    trace = CURRENT.get()
    if trace is not None:
        trace.spent[part] = trace.spent.get(part, 0.0) + seconds
