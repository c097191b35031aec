"""The audit log: who did what to which GUID, when, from where, and what became of it; a line of JSON each.

It owns what a line holds, and how it gets where it is kept: whole, in one call of the system, before anybody is told
that it was done. No line holds a secret, nor what clients keep here: neither `user` nor `metadata` of a record. Who
judges what is allowed, and who does it, tell of it here; this module knows neither of them, nor HTTP.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from pydantic_core import from_json, to_json

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.caller import Caller
from guidsvc.domain.record import Record
from guidsvc.errors import Forbidden, GuidsvcError, RateLimited, StartError, Unauthorized, found_by_class
from guidsvc.http.client_address import place_of
from guidsvc.monitoring.line_limit import LineLimit
from guidsvc.monitoring.standard_streams import BoundedStream
from guidsvc.runtime.clock import Clock
from guidsvc.telemetry.metrics import AuditMetrics
from guidsvc.telemetry.tracing import CURRENT

OFF, STDERR = "off", "stderr"
"""Not kept at all; written to standard error, among the lines of the log. Anything else is the path of a file."""
LONGEST_NAME = 256
"""Characters of a caller's name that a line holds: so none is longer than what a pipe keeps together."""
LOOK_SECONDS = 0.1
"""So often, at most, is looked whether the file is still where it was: that takes as long as to write a line."""

_REASONS: Mapping[type[GuidsvcError], str] = {
    Unauthorized: "unauthorized",
    Forbidden: "forbidden",
    RateLimited: "rate-limited",
}
OTHER_REASON = "other"
"""The reason of a refusal that has none of its own."""
_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_STDERR = 2

_log = structlog.get_logger(__name__)


class Out(Protocol):
    """Where lines go."""

    def write(self, line: bytes) -> None:
        """Write a line, whole; OSError if that cannot be done."""


class AuditLog:
    """Writes a line for each thing that was done, or denied.

    The request that it was done for is the one that is traced. A line that cannot be written goes into the log as an
    error, and whoever did what it tells of goes on.

    Refusals have a limit: of one address, or of one caller where the caller is known. Those beyond it are counted.
    """

    def __init__(self, out: Out, *, clock: Clock, meter: AuditMetrics | None = None) -> None:
        self._out = out
        self._clock = clock
        self._meter = AuditMetrics() if meter is None else meter
        self._second, self._start = -1, ""  # of which the time has been rendered
        self._strangers = LineLimit(partial(self._report, "remote"))
        self._callers = LineLimit(partial(self._report, "caller"))

    @property
    def limits(self) -> tuple[LineLimit, ...]:
        """The limits of its lines."""
        return self._strangers, self._callers

    def changed(self, action: str, record: Record, caller: Caller, outcome: str) -> None:
        """Note what was done to a record: it as it now is, or was when it was deleted."""
        with self._safely():
            line = self._begin(action)
            line["guid"], line["version"], line["owner"] = record.guid, record.version, record.owner
            self._end(line, caller, outcome)

    def key_changed(self, action: str, key: ApiKey, caller: Caller, outcome: str) -> None:
        """Note what was done to a key: it is told by its id."""
        with self._safely():
            line = self._begin(action)
            line["key"], line["owner"] = key.id, key.owner
            self._end(line, caller, outcome)

    def denied(self, error: GuidsvcError, caller: Caller | None) -> None:
        """Note that somebody was not let in, or may not do what they asked for; or count it, beyond the limit."""
        with self._safely():
            if not self._admits(caller):
                return
            line = self._begin("denied")
            line["reason"] = reason_of(type(error))
            if isinstance(error, Forbidden) and error.scope is not None:
                line["needs"] = error.scope
            self._end(line, caller, None)

    def _admits(self, caller: Caller | None) -> bool:
        """Return whether to write one more refusal, of this caller or else of the address of the request."""
        if caller is not None:
            return self._callers.admits(caller.name)
        trace = CURRENT.get()
        return self._strangers.admits("" if trace is None else place_of(trace.remote))

    def _report(self, member: str, source: str | None, count: int) -> None:
        """Write how many refusals have no line; `member` is that of the source."""
        with self._safely():
            line = self._begin("denied") | {"count": count}
            if source:
                line[member] = source
            self._write(to_json(line) + b"\n")

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Log a fault of the audit log itself: a line beside an answer must not change the answer."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is: it is logged
            self._meter.failures += 1
            _log.error("audit line not written", exc_info=error)

    def _begin(self, action: str) -> dict[str, object]:
        second, ms = divmod(self._clock(), 1000)
        if second != self._second:
            self._second, self._start = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return {"time": f"{self._start}.{ms:03d}Z", "event": "audit", "action": action}

    def _end(self, line: dict[str, object], caller: Caller | None, outcome: str | None) -> None:
        if caller is not None:
            line["caller"] = caller.name[:LONGEST_NAME]
            if caller.owner != line.get("owner"):
                line["caller_owner"] = caller.owner
        if outcome is not None:
            line["outcome"] = outcome
        trace = CURRENT.get()
        if trace is not None:
            line["request_id"], line["remote"] = trace.request_id, trace.remote
        self._write(to_json(line) + b"\n")

    def _write(self, line: bytes) -> None:
        try:
            self._out.write(line)
        except OSError as error:
            self._meter.failures += 1
            _log.error("audit line not written", fault=str(error), line=from_json(line))


def reason_of(error: type[GuidsvcError]) -> str:
    """Return the reason that a line gives for a refusal by an error of this class, or of one of its bases."""
    return found_by_class(_REASONS, error) or OTHER_REASON


@contextmanager
def open_audit_log(where: str, *, clock: Clock, meter: AuditMetrics | None = None) -> Iterator[AuditLog | None]:
    """Open the audit log, and close it at the end; None if it is off, StartError if the file cannot be written."""
    if where == OFF:
        yield None
    elif where == STDERR:
        yield AuditLog(_standard_error(), clock=clock, meter=meter)
    else:
        with _opened(where) as file:
            yield AuditLog(Lines(file.descriptor), clock=clock, meter=meter)


def _standard_error() -> Out:
    """Return standard error: among the lines of the log, in their order, where these are buffered."""
    stream = sys.stderr
    return _Stream(stream) if isinstance(stream, BoundedStream) else Lines(lambda: _STDERR)


class _Stream:
    """A buffered stream."""

    def __init__(self, stream: BoundedStream) -> None:
        self._stream = stream

    def write(self, line: bytes) -> None:
        self._stream.write_line(line)


class Lines:
    """Adds lines to a file that several processes add to, each in one call of the system."""

    def __init__(self, descriptor: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._broken = False

    def write(self, line: bytes) -> None:
        """Write a line, on one of its own: a full disk may have left a part of the last, of whichever process."""
        descriptor = self._descriptor()
        whole = b"\n" + line if self._broken else line
        was_broken, self._broken = self._broken, True
        try:
            written = os.write(descriptor, whole)
        except BlockingIOError as error:
            self._broken = was_broken  # a full pipe takes nothing of a line
            raise OSError(error.errno, "the pipe is full, as nobody reads it") from error
        if written < len(whole):
            raise OSError(errno.ENOSPC, f"{written} of {len(whole)} bytes were written")
        self._broken = False


class _File:
    """A file by its path: when it was moved away, a new one is begun.

    It is opened non-blocking: a pipe (FIFO) that nobody reads fails a write, and does not hold up the event loop.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._looked = time.monotonic()
        self._open()

    def descriptor(self) -> int:
        """Return the descriptor of the file that is there now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            if not self._is_there():
                self._open_anew()
            self._looked = now
        return self._descriptor

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def _open(self) -> None:
        self._descriptor = os.open(self._path, _FLAGS, _MODE)
        self._is = os.fstat(self._descriptor)

    def _open_anew(self) -> None:
        old = self._descriptor
        self._open()
        os.close(old)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), self._is)
        except FileNotFoundError:
            return False


@contextmanager
def _opened(path: str) -> Iterator[_File]:
    try:
        file = _File(path)
    except OSError as error:
        why = "no process reads this pipe" if error.errno == errno.ENXIO else error.strerror
        raise StartError(f"audit_log: cannot be written: {path}: {why}") from error
    try:
        yield file
    finally:
        file.close()
