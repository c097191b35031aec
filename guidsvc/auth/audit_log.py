"""The audit log: one JSON line per change or denial, with actor, action, GUID, time, address and outcome.

This module defines the fields of a line and writes it: whole, in one system call, before the client is answered. Lines
hold no secrets and no client data: neither `user` nor `metadata` of a record. Authentication and services report
events to this module; it depends on neither of them, nor on HTTP messages.
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
from pydantic_core import to_json

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.caller import Caller
from guidsvc.domain.record import Record
from guidsvc.errors import Forbidden, GuidsvcError, RateLimited, StartError, Unauthorized, found_by_class, write_fault
from guidsvc.http.client_address import network_of
from guidsvc.http.hidden_characters import show_hidden
from guidsvc.monitoring.logs.console_line import columns, event_line
from guidsvc.monitoring.logs.line_limit import LineLimit
from guidsvc.monitoring.logs.log_config import Form, is_readable
from guidsvc.monitoring.logs.printable import escape
from guidsvc.monitoring.logs.standard_streams import BoundedStream
from guidsvc.runtime.clock import Clock, continuous_clock
from guidsvc.telemetry.metrics import AuditMetrics
from guidsvc.telemetry.outage import Outage
from guidsvc.telemetry.tracing import CURRENT

OFF, STDERR = "off", "stderr"
"""No audit log; audit lines on standard error, among the log lines. Any other value is the path of a file."""
LONGEST_NAME = 256
"""Maximum length of a caller's name in a line, in characters, so that no line exceeds PIPE_BUF."""
CHECK_SECONDS = 0.1
"""Minimum interval between checks that the file was not moved, in seconds; a check costs as much as a write."""

_REASONS: Mapping[type[GuidsvcError], str] = {
    Unauthorized: "unauthorized",
    Forbidden: "forbidden",
    RateLimited: "rate-limited",
}
_READABLE_FIELDS = (
    "caller", "guid", "key", "reason", "needs", "owner", "caller_owner", "count", "request_id", "remote", "version",
)  # fmt: skip
"""The fields of a line for people, most important first. Fields that do not fit are omitted."""
OTHER_REASON = "other"
"""The reason of a denial by any other error."""
_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_STDERR = 2

_log = structlog.get_logger(__name__)


class LineWriter(Protocol):
    """A destination of lines."""

    def write(self, line: bytes) -> None:
        """Write a whole line; raise OSError if that fails."""


class AuditLog:
    """Writer of one line for each change or denial.

    A line names the traced request. If a line cannot be written, it is logged as an error, and the request continues.
    Denials are limited per caller, or per address if the caller is unknown. Those beyond the limit are counted.
    """

    def __init__(
        self, writer: LineWriter, *, clock: Clock, meter: AuditMetrics | None = None, readable: bool = False
    ) -> None:
        self._writer = writer
        self._readable = readable  # lines are for people, not JSON
        self._clock = clock
        self._metrics = AuditMetrics() if meter is None else meter
        self._outage = Outage(_log, "audit log unavailable, writing its lines here", "audit log available again")
        self._rendered_second, self._rendered_time = -1, ""  # the current second, and its rendering
        self._address_limit = LineLimit(partial(self._report, "remote"))
        self._caller_limit = LineLimit(partial(self._report, "caller"))

    @property
    def limits(self) -> tuple[LineLimit, ...]:
        """The line limits of denials."""
        return self._address_limit, self._caller_limit

    def changed(self, action: str, record: Record, caller: Caller, outcome: str) -> None:
        """Record a change of a record. `record` is its new state, or the state before its deletion."""
        with self._safely():
            line = self._start_line(action)
            line["guid"], line["version"], line["owner"] = record.guid, record.version, record.owner
            self._finish_line(line, caller, outcome)

    def key_changed(self, action: str, key: ApiKey, caller: Caller, outcome: str) -> None:
        """Record a change of an API key, identified by its id."""
        with self._safely():
            line = self._start_line(action)
            line["key"], line["owner"] = key.id, key.owner
            self._finish_line(line, caller, outcome)

    def denied(self, error: GuidsvcError, caller: Caller | None) -> None:
        """Record a request that was not authenticated or not permitted; beyond the limit, only count it."""
        with self._safely():
            if not self._admits(caller):
                return
            line = self._start_line("denied")
            line["reason"] = reason_of(type(error))
            if isinstance(error, Forbidden) and error.scope is not None:
                line["needs"] = error.scope
            self._finish_line(line, caller, None)

    def _admits(self, caller: Caller | None) -> bool:
        """Return whether to write one more denial of this caller, or of the request's address if it is None."""
        if caller is not None:
            return self._caller_limit.admits(caller.name)
        trace = CURRENT.get()
        return self._address_limit.admits("" if trace is None else network_of(trace.remote))

    def _report(self, member: str, source: str | None, count: int) -> None:
        """Write the number of denials without a line; `member` is the field that names their source."""
        with self._safely():
            line = self._start_line("denied") | {"count": count}
            if source:
                line[member] = source
            self._write(line)

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Log a failure of the audit log itself: it must not change the response."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # logged, whatever it is
            self._metrics.failures += 1
            _log.error("audit line not written", exc_info=error)

    def _start_line(self, action: str) -> dict[str, object]:
        second, ms = divmod(self._clock(), 1000)
        if second != self._rendered_second:
            self._rendered_second, self._rendered_time = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return {"timestamp": f"{self._rendered_time}.{ms:03d}Z", "event": "audit", "action": action}

    def _finish_line(self, line: dict[str, object], caller: Caller | None, outcome: str | None) -> None:
        if caller is not None:
            line["caller"] = caller.name[:LONGEST_NAME]
            if caller.owner != line.get("owner"):
                line["caller_owner"] = caller.owner
        if outcome is not None:
            line["outcome"] = outcome
        trace = CURRENT.get()
        if trace is not None:
            line["request_id"], line["remote"] = trace.request_id, trace.remote
        self._write(line)

    def _write(self, line: Mapping[str, object]) -> None:
        try:
            self._writer.write(_readable_line(line) if self._readable else _json_line(line))
        except OSError as error:
            self._metrics.failures += 1
            self._outage.begin(error=str(error))
            _log.error("audit line not written", error=str(error), line=dict(line))
        else:
            self._outage.end()


def _json_line(line: Mapping[str, object]) -> bytes:
    """Return a line of JSON. People read it in a terminal too, so no owner may hide or reorder its text."""
    return f"{show_hidden(to_json(line).decode())}\n".encode()


def _readable_line(line: Mapping[str, object]) -> bytes:
    """Return a line for people: `16:22:48 audit update done caller=key:... guid=...`, in the width of the terminal."""
    event = " ".join(str(line[name]) for name in ("event", "action", "outcome") if name in line)
    fields = {name: escape(str(line[name])) for name in _READABLE_FIELDS if name in line}
    return event_line(event, fields, width=columns()).encode() + b"\n"


def reason_of(error: type[GuidsvcError]) -> str:
    """Return the reason of a denial by an error of this class, or of one of its bases."""
    return found_by_class(_REASONS, error) or OTHER_REASON


@contextmanager
def open_audit_log(
    destination: str, *, clock: Clock, meter: AuditMetrics | None = None, form: Form = "json"
) -> Iterator[AuditLog | None]:
    """Open the audit log, and close it on exit; yield None if it is off, raise StartError if it is not writable.

    A file has lines of JSON; standard error has the form of log lines.
    """
    if destination == OFF:
        yield None
    elif destination == STDERR:
        yield AuditLog(_standard_error(), clock=clock, meter=meter, readable=is_readable(form))
    else:
        with _open_file(destination) as file:
            yield AuditLog(FileLineWriter(file.descriptor), clock=clock, meter=meter)


def _standard_error() -> LineWriter:
    """Return standard error; if it is buffered, audit lines go through the buffer, in order with log lines."""
    stream = sys.stderr
    return _Stream(stream) if isinstance(stream, BoundedStream) else FileLineWriter(lambda: _STDERR)


class _Stream:
    """A buffered stream as a destination of lines."""

    def __init__(self, stream: BoundedStream) -> None:
        self._stream = stream

    def write(self, line: bytes) -> None:
        self._stream.write_line(line)


class FileLineWriter:
    """A file that several processes append lines to, each line in one system call."""

    def __init__(self, descriptor: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._has_partial_line = False

    def write(self, line: bytes) -> None:
        """Append a line, after a line break if the last write failed: a full disk may have left part of a line."""
        descriptor = self._descriptor()
        data = b"\n" + line if self._has_partial_line else line
        had_partial_line, self._has_partial_line = self._has_partial_line, True
        try:
            written = os.write(descriptor, data)
        except BlockingIOError as error:
            self._has_partial_line = had_partial_line  # a full pipe accepts no part of a line
            raise OSError(error.errno, "the pipe is full: nothing reads it") from error
        if written < len(data):
            raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes were written")
        self._has_partial_line = False


class _File:
    """A file that is reopened by its path after it was moved away.

    It is opened non-blocking: writing to a pipe (FIFO) that no process reads fails, and does not block the event loop.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._last_check = continuous_clock()
        self._open()

    def descriptor(self) -> int:
        """Return the descriptor of the current file; reopen it if it was moved away."""
        now = continuous_clock()
        if now - self._last_check >= CHECK_SECONDS:
            if not self._is_there():
                self._open_anew()
            self._last_check = now
        return self._descriptor

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> None:
        self._descriptor = os.open(self._path, _FLAGS, _MODE)
        self._identity = os.fstat(self._descriptor)

    def _open_anew(self) -> None:
        old = self._descriptor
        self._open()
        os.close(old)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), self._identity)
        except FileNotFoundError:
            return False


@contextmanager
def _open_file(path: str) -> Iterator[_File]:
    try:
        file = _File(path)
    except OSError as error:
        reason = "no process reads this pipe" if error.errno == errno.ENXIO else write_fault(error)
        raise StartError(f"audit_log: cannot write {path}: {reason}") from error
    try:
        yield file
    finally:
        file.close()
