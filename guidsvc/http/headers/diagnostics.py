"""Optional diagnostic headers of a response: the source of its record, and its processing time.

`Cache-Status` is defined by RFC 9211, `Server-Timing` (in milliseconds) by the W3C.
"""

from dataclasses import dataclass

from guidsvc.telemetry.tracing import DOWN, L1, MISS, REDIS, RequestTrace

CACHE_STATUS = {
    L1: "guidsvc; hit; detail=l1",
    REDIS: "guidsvc; hit; detail=redis",
    MISS: "guidsvc; fwd=miss; detail=store",
    DOWN: "guidsvc; fwd=miss; detail=down",
}
"""Cache-Status by source of the record: structured fields (RFC 9651), rendered once."""
_PARTS = ("store", "redis")
_READS = frozenset({"GET", "HEAD"})
_ERRORS = 400


def source_of(method: str, status: int, trace: RequestTrace) -> str | None:
    """Return the source of the record in a response; None if it is not a successful read of a record."""
    return trace.source if status < _ERRORS and method in _READS else None


@dataclass(frozen=True)
class DiagnosticHeaders:
    """The selection of diagnostic headers to send."""

    cache_status: bool = False
    server_timing: bool = False

    def __bool__(self) -> bool:
        """Whether any header is selected."""
        return self.cache_status or self.server_timing

    def header_lines(self, source: str | None, trace: RequestTrace, seconds: float) -> bytes:
        """Return the header lines of a response that took `seconds`, each with its line end."""
        lines = ""
        if self.cache_status and source is not None:
            lines += f"Cache-Status: {CACHE_STATUS[source]}\r\n"
        if self.server_timing:
            parts = () if trace.is_opaque else _PARTS
            spent = {part: trace.spent[part] for part in parts if part in trace.spent} | {"total": seconds}
            timing = ", ".join(f"{name};dur={1000 * each:.2f}" for name, each in spent.items())
            lines += f"Server-Timing: {timing}\r\n"
        return lines.encode()
