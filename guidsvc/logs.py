"""Log lines: to read on a terminal, JSON otherwise; to standard error, structlog's and everybody else's alike."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from json import dumps
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from guidsvc.standard_streams import BoundedStream
from guidsvc.tracing import CURRENT, L1, MISS, REDIS

PIPE_BUF = 4096
"""Bytes that a pipe takes in one piece, whoever else writes into it (Linux; `select.PIPE_BUF`)."""
Form = Literal["auto", "console", "json"]
_DROPPED = "dropped_lines"
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
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=[_DROPPED])],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(readable=readable)],
        )
    )
    if isinstance(sys.stderr, BoundedStream):
        sys.stderr.notice = partial(_notice, handler)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _hush()


def _notice(handler: logging.Handler, dropped: int) -> str:
    """Return the line that tells of dropped lines. It is not logged: that takes a lock which a writer may hold."""
    line = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": "log lines dropped"}
    return handler.format(logging.makeLogRecord(line | {_DROPPED: dropped})) + "\n"


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


Access = Callable[[str, str, int, float, str, str, str | None], None]
"""Writes a line: method, path, status, milliseconds, request id, client, and where the record came from, if one was."""


def access_log(level: str, form: Form, *, worker: int | None = None) -> Access | None:
    """Return what writes the line of a request; None if this level leaves it out.

    For programs the line is made here: structlog makes the same of it, and takes longer than the request itself.
    """
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    if is_readable(form):
        return _readable
    return _Lines(sys.stderr, worker)


def _readable(  # noqa: PLR0913, PLR0917  # what a line holds
    method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None
) -> None:
    given = {
        "method": method,
        "path": without_secrets(path),
        "status": status,
        "ms": ms,
        "request_id": request_id,
        "remote": remote,
    }
    structlog.get_logger("guidsvc.access").info("request", **given, **({} if cache is None else {"cache": cache}))


_CACHE = {None: ""} | {source: f'"cache": "{source}", ' for source in (L1, REDIS, MISS)}


def without_secrets(path: str) -> str:
    """Return a path, with `...` for the secret of a key, or for a token, that somebody put there."""
    if "gs_" not in path and "eyJ" not in path:
        return path
    return _SECRETS.sub(lambda found: f"{found[1] or found[2]}...", path)


class _Lines:
    """Access lines in JSON, those of one turn of the loop written at once.

    Those of several workers may go into one pipe, which keeps what is written together only up to PIPE_BUF.
    """

    def __init__(self, out: TextIO, worker: int | None = None) -> None:
        self._out = out
        self._most = None if worker is None else PIPE_BUF
        self._end = "}\n" if worker is None else f', "worker": {worker}}}\n'
        self._lines: list[str] = []
        self._second, self._start = -1, ""

    def __call__(  # noqa: PLR0913, PLR0917  # what a line holds
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None
    ) -> None:
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
