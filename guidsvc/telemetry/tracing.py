"""What is noted of a request while it is done: its name, where its record came from, and what it waited for.

Whoever begins a request sets CURRENT; whoever has something to note of it, however deep below, finds it there, and
need not know who asked. Where nobody has set it, nothing is noted.
"""

from contextvars import ContextVar

L1, REDIS, MISS = "l1", "redis", "miss"
"""Where a record came from: the memory of this process, Redis, or, as neither had it, the store."""


class RequestTrace:
    """The notes on one request; `spent` is the seconds that it waited for each part, added up.

    `remote` is where it came from.
    """

    __slots__ = ("remote", "request_id", "source", "spent")

    def __init__(self, request_id: str, remote: str = "") -> None:
        self.request_id = request_id
        self.remote = remote
        self.source: str | None = None
        self.spent: dict[str, float] = {}


CURRENT: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)
"""The request that is being done, if it is one."""


def record_source(source: str) -> None:
    """Note where the record came from that the current request has read."""
    trace = CURRENT.get()
    if trace is not None:
        trace.source = source


def record_wait(part: str, seconds: float) -> None:
    """Note that the current request has waited for a part of the service."""
    trace = CURRENT.get()
    if trace is not None:
        trace.spent[part] = trace.spent.get(part, 0.0) + seconds
