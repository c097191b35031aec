"""What headers tell of an answer, where the settings ask for it: where its record came from, and how long it took.

`Cache-Status` is RFC 9211, `Server-Timing` is the W3C's, in milliseconds.
"""

from dataclasses import dataclass

from guidsvc.telemetry.tracing import L1, MISS, REDIS, RequestTrace

CACHE_STATUS = {
    L1: "guidsvc; hit; detail=l1",
    REDIS: "guidsvc; hit; detail=redis",
    MISS: "guidsvc; fwd=miss; detail=store",
}
"""By where the record came from: structured fields (RFC 9651), made once."""
_PARTS = ("store", "redis")
_READS = frozenset({"GET", "HEAD"})
_ERRORS = 400


def source_of(method: str, status: int, trace: RequestTrace) -> str | None:
    """Return where the record that answers a read came from; None if nothing was read, or it is no record."""
    return trace.source if status < _ERRORS and method in _READS else None


@dataclass(frozen=True)
class DiagnosticHeaders:
    """Which headers are sent."""

    cache_status: bool = False
    server_timing: bool = False

    def __bool__(self) -> bool:
        """Whether any are."""
        return self.cache_status or self.server_timing

    def headers(self, source: str | None, trace: RequestTrace, seconds: float) -> dict[str, str]:
        """Return those of an answer that took so long."""
        told = {"Cache-Status": CACHE_STATUS[source]} if self.cache_status and source is not None else {}
        if self.server_timing:
            parts = () if trace.is_opaque else _PARTS
            spent = {part: trace.spent[part] for part in parts if part in trace.spent} | {"total": seconds}
            told["Server-Timing"] = ", ".join(f"{name};dur={1000 * each:.2f}" for name, each in spent.items())
        return told

    def lines(self, source: str | None, trace: RequestTrace, seconds: float) -> str:
        """Return the same as lines of a head."""
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers(source, trace, seconds).items())
