"""Log lines: to read on a terminal, JSON otherwise; to standard error, structlog's and everybody else's alike."""

import logging
import sys
from functools import partial
from io import StringIO
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, ExcInfo, Processor, WrappedLogger

from guidsvc.monitoring.line_limit import LineLimit
from guidsvc.monitoring.standard_streams import BoundedStream
from guidsvc.telemetry.tracing import CURRENT

Form = Literal["auto", "console", "json"]
PER_EVENT, TOTAL = 300, 1000
"""How many lines of one event are written in a minute, and how many of all events; access and audit log apart."""
ACCESS, AUDIT = "guidsvc.access", "guidsvc.auth.audit_log"
"""The loggers of the access log and of the audit log, whose lines have limits of their own."""
_DROPPED, _OF, _COUNT = "dropped_lines", "of", "count"


def configure(level: str, form: Form, *, worker: int | None = None) -> None:
    """Send every line of this level and above to standard error; `auto` is for a reader if that is a terminal.

    Where there are several workers each line says which one wrote it.
    """
    readable = is_readable(form)
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named,
        *([] if worker is None else [_naming(worker)]),
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
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=[_DROPPED, _OF, _COUNT])],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(readable=readable)],
        )
    )
    handler.addFilter(EventLimit(handler))
    if isinstance(sys.stderr, BoundedStream):
        sys.stderr.notice = partial(_notice, handler)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _hush()


class EventLimit(logging.Filter):
    """Limits how many lines of one event are written: clients can cause some of them as often as they like."""

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
        self._handler.handle(_warning("log lines left out, there were too many", {_OF: others, _COUNT: count}))


def event_limits() -> list[LineLimit]:
    """Return the limits of the log as it is configured."""
    filters = [each for handler in logging.getLogger().handlers for each in handler.filters]
    return [each.limit for each in filters if isinstance(each, EventLimit)]


def _notice(handler: logging.Handler, dropped: int) -> str:
    """Return the line that tells of dropped lines. It is not logged: that takes a lock which a writer may hold."""
    return handler.format(_warning("log lines dropped", {_DROPPED: dropped})) + "\n"


def _warning(message: str, fields: dict[str, object]) -> logging.LogRecord:
    """Return the record of a warning about the log itself, for its handler alone."""
    line = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": message}
    return logging.makeLogRecord(line | fields)


def _hush() -> None:
    """Keep out of the log what others write into it of what clients send."""
    logging.getLogger("pymongo.command").setLevel(logging.INFO)  # on debug: each command, with the records in it
    logging.getLogger("tornado.general").addFilter(_shortened)


def _shortened(line: logging.LogRecord) -> bool:
    """Leave two words of why Tornado's server takes something for no request: the others may be a key."""
    if isinstance(line.args, tuple) and str(line.msg).startswith("Malformed HTTP message"):
        line.args = (*line.args[:-1], " ".join(str(line.args[-1]).split()[:2]))
    return True


def is_readable(form: Form) -> bool:
    """Whether lines are for a reader."""
    return form == "console" or (form == "auto" and sys.stderr.isatty())


def _naming(worker: int) -> Processor:
    """Return what adds the worker to a line."""

    def name(_: object, __: str, line: EventDict) -> EventDict:
        line["worker"] = worker
        return line

    return name


def _named(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the request on whose behalf a line is written, if there is one, and the line does not name it."""
    trace = CURRENT.get()
    if trace is not None:
        event.setdefault("request_id", trace.request_id)
    return event


def _escape_values(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape what a terminal would act on, or not show, in the values of a line: clients choose some of them."""
    return {name: escape(value) if isinstance(value, str) else value for name, value in event.items()}


def escape(text: str) -> str:
    """Return a text with escapes for characters that are not printable: controls, formats, separators of lines."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _plain_traceback(out: TextIO, failure: ExcInfo) -> None:
    """Write a traceback; rich, where it is installed, would show what variables hold."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, failure)
    out.write("\n".join(map(escape, plain.getvalue().split("\n"))))


def _rendering(*, readable: bool) -> list[Processor]:
    if readable:
        return [
            _escape_values,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback),
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
