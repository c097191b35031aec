"""Log lines: to read on a terminal, JSON otherwise; to standard error, structlog's and everybody else's alike."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from http import HTTPStatus
from json import dumps
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from guidsvc.auth.lockout import place_of
from guidsvc.monitoring.line_limit import LineLimit
from guidsvc.monitoring.standard_streams import BoundedStream
from guidsvc.telemetry.tracing import CURRENT, L1, MISS, REDIS

PIPE_BUF = 4096
"""Bytes that a pipe takes in one piece, whoever else writes into it (Linux; `select.PIPE_BUF`)."""
Form = Literal["auto", "console", "json"]
PER_EVENT, TOTAL = 300, 1000
"""How many lines of one event are written in a minute, and how many of all events; access and audit log apart."""
ACCESS, AUDIT = "guidsvc.access", "guidsvc.auth.audit_log"
"""The loggers of the access log and of the audit log, whose lines have limits of their own."""
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.TOO_MANY_REQUESTS})
"""Requests that were answered so have a limit of access lines."""
_DROPPED, _OF, _COUNT = "dropped_lines", "of", "count"
_SECRETS = re.compile(r"(gs_[0-9A-Za-z]{12}_)\w+|(eyJ)[\w-]{8,}[\w.-]*")
"""What may be in a path by mistake: an API key, of which the id may be told; a JWT."""


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


class AccessLog:
    """Writes access lines. Those of requests that were refused have a limit for each address."""

    def __init__(self) -> None:
        self.limit = LineLimit(_report_refused)

    def __call__(  # noqa: PLR0913, PLR0917  # what a line holds
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None
    ) -> None:
        """Write a line: the time is in milliseconds, and `cache` is where the record came from, if one was read."""
        raise NotImplementedError

    def _leaves_out(self, status: int, remote: str) -> bool:
        """Return whether a line is to be counted only."""
        return status in REFUSED and not self.limit.admits(place_of(remote))


def _report_refused(remote: str | None, count: int) -> None:
    given = {} if remote is None else {"remote": remote}
    structlog.get_logger(ACCESS).info("further requests refused", count=count, **given)


def access_log(level: str, form: Form, *, worker: int | None = None) -> AccessLog | None:
    """Return what writes the line of a request; None if this level leaves it out.

    For programs the line is made here: structlog makes the same of it, and takes longer than the request itself.
    """
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    if is_readable(form):
        return _Readable()
    return _Lines(sys.stderr, worker)


class _Readable(AccessLog):
    """Access lines to read."""

    def __call__(  # noqa: PLR0913, PLR0917  # what a line holds
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None
    ) -> None:
        if self._leaves_out(status, remote):
            return
        given = {
            "method": method,
            "path": without_secrets(path),
            "status": status,
            "ms": ms,
            "request_id": request_id,
            "remote": remote,
        }
        structlog.get_logger(ACCESS).info("request", **given, **({} if cache is None else {"cache": cache}))


_CACHE = {None: ""} | {source: f'"cache": "{source}", ' for source in (L1, REDIS, MISS)}


def without_secrets(path: str) -> str:
    """Return a path, with `...` for the secret of a key, or for a token, that somebody put there."""
    if "gs_" not in path and "eyJ" not in path:
        return path
    return _SECRETS.sub(lambda found: f"{found[1] or found[2]}...", path)


class _Lines(AccessLog):
    """Access lines in JSON, those of one turn of the loop written at once.

    Those of several workers may go into one pipe, which keeps what is written together only up to PIPE_BUF.
    """

    def __init__(self, out: TextIO, worker: int | None = None) -> None:
        super().__init__()
        self._out = out
        self._most = None if worker is None else PIPE_BUF
        self._end = "}\n" if worker is None else f', "worker": {worker}}}\n'
        self._lines: list[str] = []
        self._second, self._start = -1, ""

    def __call__(  # noqa: PLR0913, PLR0917  # what a line holds
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None
    ) -> None:
        if status in REFUSED and self._leaves_out(status, remote):
            return
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(
            f'{{"method": {dumps(method)}, "path": {dumps(without_secrets(path))}, "status": {status}, "ms": {ms}, '
            f'"request_id": "{request_id}", "remote": {dumps(remote)}, {_CACHE[cache]}"event": "request", '
            f'"logger": "guidsvc.access", "level": "info", '
            f'"timestamp": "{self._start}.{int(now % 1 * 1_000_000):06d}Z"{self._end}'
        )

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        for part in [lines] if self._most is None else parted(lines, self._most):
            self._out.write("".join(part))
            self._out.flush()


def parted(lines: Iterable[str], most: int) -> Iterator[list[str]]:
    """Part lines so that no part is of more than so many characters, unless one line is."""
    part: list[str] = []
    size = 0
    for line in lines:
        if part and size + len(line) > most:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


def _named(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Name the request on whose behalf a line is written, if there is one, and the line does not name it."""
    trace = CURRENT.get()
    if trace is not None:
        event.setdefault("request_id", trace.request_id)
    return event


def _rendering(*, readable: bool) -> list[Processor]:
    if readable:
        plain = structlog.dev.plain_traceback  # rich, where it is installed, would show what variables hold
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
