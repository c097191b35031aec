"""What is noted of a request while it is done: its name, where its record came from, and what it waited for.

Whoever begins a request sets CURRENT; whoever has something to note of it, however deep below, finds it there, and
need not know who asked. Where nobody has set it, nothing is noted.
"""

from contextvars import ContextVar

L1, REDIS, MISS = "l1", "redis", "miss"
"""Where a record came from: the memory of this process, Redis, or, as neither had it, the store."""


class RequestTrace:
    """The notes on one request; `spent` is the seconds that it waited for each part, added up.

    `remote` is where it came from. If it `is_opaque` the client is not told which parts it waited for: where a GUID is
    not found, that would tell whether there is a record of another owner.
    """

    __slots__ = ("is_opaque", "remote", "request_id", "source", "spent")

    def __init__(self, request_id: str, remote: str = "") -> None:
        self.request_id = request_id
        self.remote = remote
        self.source: str | None = None
        self.spent: dict[str, float] = {}
        self.is_opaque = False


CURRENT: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)
"""The request that is being done, if it is one."""


def record_source(source: str) -> None:
    """Note where the record came from that the current request has read."""
    trace = CURRENT.get()
    if trace is not None:
        trace.source = source


def hide_waits() -> None:
    """Do not tell the client which parts the current request waits for."""
    trace = CURRENT.get()
    if trace is not None:
        trace.is_opaque = True


def record_wait(part: str, seconds: float) -> None:
    """Note that the current request has waited for a part of the service."""
    trace = CURRENT.get()
    if trace is not None:
        trace.spent[part] = trace.spent.get(part, 0.0) + seconds
