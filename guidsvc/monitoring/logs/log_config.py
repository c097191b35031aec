"""Log configuration: structlog and standard logging write to standard error, readable on a terminal, else JSON."""

import logging
import sys
from enum import IntEnum
from functools import partial
from io import StringIO
from typing import Any, Literal, TextIO

import structlog
from structlog.types import EventDict, ExcInfo, Processor, WrappedLogger

from guidsvc.monitoring.logs.console_line import columns, event_line, is_colored, visible_width, wrapped_line
from guidsvc.monitoring.logs.library_lines import silence_libraries, split_driver_line
from guidsvc.monitoring.logs.line_limit import LineLimit
from guidsvc.monitoring.logs.printable import escape, escape_lines
from guidsvc.monitoring.logs.standard_streams import BoundedStream
from guidsvc.monitoring.logs.uncaught import log_uncaught
from guidsvc.telemetry.tracing import CURRENT

Form = Literal["auto", "console", "json"]
PER_EVENT, TOTAL = 300, 1000
"""Maximum number of lines in a minute: of one event, and of all events, except the access and audit logs."""
ACCESS, AUDIT = "guidsvc.access", "guidsvc.auth.audit_log"
"""Logger names of the access log and the audit log, which have their own limits."""
REFUSED = "refused"
"""The event of a request that was rejected before any handler, with its `status` and `detail`."""
_HEAD, _FAILURE = ("timestamp", "level", "event"), ("exc_info", "exception", "stack")
"""Members of an event that begin its line; and those that follow it as a traceback."""
_DROPPED, _OF, _COUNT = "dropped_lines", "of", "count"


def configure(level: str, form: Form, *, worker: int | None = None) -> None:
    """Log lines of this level and above to standard error; `auto` is readable if that is a terminal, else JSON.

    With several workers, each line names its worker.
    """
    readable = is_readable(form)
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _timestamper(readable=readable),
        _add_request_id,
        *([] if worker is None else [_worker_adder(worker)]),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, split_driver_line, structlog.stdlib.ExtraAdder(allow=[_DROPPED, _OF, _COUNT])],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(readable=readable)],
        )
    )
    handler.addFilter(EventLimit(handler))
    if isinstance(sys.stderr, BoundedStream):  # this process is the service
        sys.stderr.notice = partial(_notice, handler)
        log_uncaught(handler)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    silence_libraries()


class EventLimit(logging.Filter):
    """A filter that limits the lines of each event, because clients can cause some events at will."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler
        self.limit = LineLimit(self._report, per_source=PER_EVENT, total=TOTAL)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO or record.name in {__name__, ACCESS, AUDIT}:
            return True
        event = record.msg["event"] if isinstance(record.msg, dict) else record.msg
        return self.limit.admits(f"{record.name}: {event}")

    def _report(self, event: str | None, count: int) -> None:
        others = "other events" if event is None else event
        self._handler.handle(_warning("too many log lines, some left out", {_OF: others, _COUNT: count}))


def event_limits() -> list[LineLimit]:
    """Return the event limits of the configured log."""
    filters = [each for handler in logging.getLogger().handlers for each in handler.filters]
    return [each.limit for each in filters if isinstance(each, EventLimit)]


def _notice(handler: logging.Handler, dropped: int) -> str:
    """Return the line that reports dropped lines. It is not logged: that takes a lock which a writer may hold."""
    return handler.format(_warning("log lines dropped", {_DROPPED: dropped})) + "\n"


def _warning(message: str, fields: dict[str, object]) -> logging.LogRecord:
    """Return a warning record about the log itself, which goes directly to its handler."""
    line = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": message}
    return logging.makeLogRecord(line | fields)


def is_readable(form: Form) -> bool:
    """Return whether log lines have the readable form."""
    return form == "console" or (form == "auto" and sys.stderr.isatty())


def _timestamper(*, readable: bool) -> Processor:
    """Return the processor that adds the time: for people the local time of day, else the whole time in UTC."""
    return structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable)


def _worker_adder(worker: int) -> Processor:
    """Return a processor that adds the worker to a line."""

    def name(_: object, __: str, line: EventDict) -> EventDict:
        line["worker"] = worker
        return line

    return name


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the ID of the current request, if any, unless the line already has one."""
    trace = CURRENT.get()
    if trace is not None:
        event.setdefault("request_id", trace.request_id)
        if trace.trace_id:
            event.setdefault("trace_id", trace.trace_id)
    return event


def _escape_values(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape characters that a terminal would interpret or hide in the values of a line: clients choose some."""
    return {name: _shown(value) for name, value in event.items()}


def _shown(value: object) -> object:
    if isinstance(value, IntEnum):  # whose repr would be shown
        return int(value)
    return escape(value) if isinstance(value, str) else value


def _plain_traceback(out: TextIO, failure: ExcInfo) -> None:
    """Write a plain traceback; rich, if installed, would show the values of variables."""
    text = StringIO()
    structlog.dev.plain_traceback(text, failure)
    out.write(escape_lines(text.getvalue()))


def _render_readable(general: Processor, logger: WrappedLogger, method: str, event: EventDict) -> Any:
    """Return a line for people. A request that is not HTTP is on one line of the terminal, like others."""
    if event["event"] != REFUSED:
        return _render_wrapped(general, logger, method, event)
    fields = {name: str(event[name]) for name in ("request_id", "code") if name in event}
    return event_line(f"{REFUSED} {event['status']} {event['detail']}", fields, width=columns())


def _render_wrapped(general: Processor, logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Return the line of an event; if it is wider than the terminal, its fields on lines of their own, logger last."""
    line, newline, traceback = str(general(logger, method, dict(event))).partition("\n")
    width = columns()
    if sys.stderr.isatty() and visible_width(line) > width:  # a file has one line for each event, for grep
        head = general(logger, method, {name: event[name] for name in _HEAD if name in event})
        fields = {name: value for name, value in event.items() if name not in {*_HEAD, *_FAILURE, "logger"}}
        line = wrapped_line(str(head).rstrip(), {**fields, "logger": event.get("logger", "")}, width=width)
    return f"{line}{newline}{traceback}"


def _rendering(*, readable: bool) -> list[Processor]:
    if readable:
        general = structlog.dev.ConsoleRenderer(colors=is_colored(), exception_formatter=_plain_traceback)
        return [_escape_values, partial(_render_readable, general)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
