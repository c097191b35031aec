"""The access log: one line per request."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from json import dumps
from json.encoder import encode_basestring_ascii as as_json  # `dumps` for texts, without its two calls
from typing import Protocol, TextIO
from urllib.parse import quote, unquote

import structlog

from guidsvc.http.client_address import network_of
from guidsvc.http.credentials import CREDENTIAL
from guidsvc.monitoring.logs.console_line import METHOD_CHARACTERS, columns, console_line, is_colored
from guidsvc.monitoring.logs.line_limit import LineLimit
from guidsvc.monitoring.logs.log_config import ACCESS, Form, is_readable
from guidsvc.monitoring.logs.printable import escape
from guidsvc.telemetry.tracing import DOWN, L1, MISS, REDIS

PIPE_BUF = 4096
"""Maximum size of an atomic write to a shared pipe, in bytes (Linux; `select.PIPE_BUF`)."""
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.TOO_MANY_REQUESTS})
"""Statuses of rejected requests, whose access lines are limited."""
FIRST_ERROR = 400
"""The lowest status of a failed request."""
MEMBER_CHARACTERS = 300
"""Maximum length of a member that describes a failure, as JSON: a line must fit into PIPE_BUF."""
MAX_METHOD_CHARACTERS = 32
"""Maximum length of a method in a line, as in guidsvc's own server. Tornado accepts methods of any length."""
_ENCODED_PERCENT = re.compile("%(?:25)+")
"""A percent sign, encoded one or more times."""
MAX_DECODINGS = 4
"""Maximum number of times that a path is decoded to find a secret. Escapes may themselves be escaped."""
SECOND = 1_000_000_000
"""A second, in nanoseconds."""
MICROSECONDS = slice(-9, -3)
"""The digits of a time in nanoseconds that are the microseconds of its second."""
_SAFE = "/:@!$&'()*+,;=~"
"""Characters that a path may contain unencoded (RFC 3986, 3.3), besides letters, digits and `-._~`."""


Failure = Mapping[str, str]
"""Why a request failed: the code of the problem, where the request is wrong, the reason, and the caller."""


class Log(Protocol):
    """A writer of access lines."""

    def __call__(  # noqa: PLR0913, PLR0917  # the members of a line; grouping them costs more than writing it
        self,
        method: str,
        path: str,
        status: int,
        ms: float,
        request_id: str,
        remote: str,
        cache: str | None,
        failure: Failure | None = None,
        trace_id: str = "",
        /,
    ) -> None:
        """Write a line; `ms` is the duration, `remote` the client, `cache` the source of the record, if one was read.

        `failure` describes why a request failed: members that are added to the line. So is `trace_id`, if it has one.
        """

    def log_read(self, guid: str, ms: float, request_id: str, remote: str, cache: str, /) -> None:
        """Write the line of a successful GET of a record; `guid` is valid, and `request_id` was made here."""


class AccessLog(Log):
    """Writer of access lines. Those of rejected requests are limited per address."""

    def __init__(self) -> None:
        self.limit = LineLimit(_report_refused)

    def log_read(self, guid: str, ms: float, request_id: str, remote: str, cache: str) -> None:
        self("GET", f"/guid/{guid}", HTTPStatus.OK, ms, request_id, remote, cache)

    def _leaves_out(self, status: int, remote: str) -> bool:
        """Return whether to count a line instead of writing it."""
        return status in REFUSED and not self.limit.admits(network_of(remote))


def _report_refused(remote: str | None, count: int) -> None:
    fields = {} if remote is None else {"remote": remote}
    structlog.get_logger(ACCESS).info("further rejected requests", count=count, **fields)


def access_log(level: str, form: Form, *, worker: int | None = None) -> AccessLog | None:
    """Return the writer of access lines, or None if the level excludes them.

    JSON lines are built here: structlog renders the same, but takes longer than the request itself.
    """
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    if is_readable(form):
        return _ConsoleAccessLog(sys.stderr, worker)
    return _JsonAccessLog(sys.stderr, worker)


class _ConsoleAccessLog(AccessLog):
    """Access lines for people, each on one line of the terminal."""

    def __init__(self, out: TextIO, worker: int | None = None) -> None:
        super().__init__()
        self._out = out
        self._worker = worker
        self._is_colored = is_colored()
        self._second, self._time, self._columns = -1, "", 0

    def __call__(  # noqa: PLR0913, PLR0917  # the members of a line
        self,
        method: str,
        path: str,
        status: int,
        ms: float,
        request_id: str,
        remote: str,
        cache: str | None,
        failure: Failure | None = None,
        trace_id: str = "",
    ) -> None:
        if self._leaves_out(status, remote):
            return
        now = int(time.time())
        if now != self._second:
            self._second, self._time, self._columns = now, time.strftime("%H:%M:%S", time.localtime(now)), columns()
        extras = {"cache": cache, "request_id": escape(request_id), "remote": escape(remote), "worker": self._worker}
        if trace_id:
            extras["trace_id"] = trace_id
        line = console_line(
            f"{self._time} {escape(method)[:METHOD_CHARACTERS]}",
            escape(without_secrets(path)),
            (status, ms),
            None if failure is None else {name: escape(value) for name, value in failure.items()},
            extras,
            width=self._columns,
            colored=self._is_colored,
        )
        self._out.write(f"{line}\n")
        self._out.flush()


_CACHE = {None: ""} | {source: f'"cache": "{source}", ' for source in (L1, REDIS, MISS, DOWN)}


def without_secrets(path: str) -> str:
    """Return a path with the secret of an API key, or a token, replaced by `...`.

    A path that is encoded too many times to be searched is replaced as a whole.
    """
    if "%" in path:
        decoded = _decoded(path)
        if decoded is None:
            return "..."
        return quote(_redacted(decoded), safe=_SAFE) if CREDENTIAL.search(decoded) else path
    if "_" not in path and "eyJ" not in path:
        return path
    return _redacted(path)


def _decoded(path: str) -> str | None:
    """Return a path without percent-encoding, or None if MAX_DECODINGS do not remove it."""
    for _ in range(MAX_DECODINGS):
        encoded, path = path, unquote(_ENCODED_PERCENT.sub("%", path))
        if "%" not in path or path == encoded:
            return path
    return None


def loggable_method(method: str) -> str:
    """Return a method as it may be logged. An unknown one may be the rest of a body, with a key and of any length."""
    return without_secrets(method)[:MAX_METHOD_CHARACTERS]


def _redacted(text: str) -> str:
    return CREDENTIAL.sub(lambda match: f"{match[match.lastindex or 0]}...", text)


class _JsonAccessLog(AccessLog):
    """Access lines in JSON; those of one event-loop iteration are written together.

    Several workers may share a pipe, which writes atomically only up to PIPE_BUF.
    """

    def __init__(self, out: TextIO, worker: int | None = None) -> None:
        super().__init__()
        self._out = out
        self._most = None if worker is None else PIPE_BUF
        self._end = "}\n" if worker is None else f', "worker": {worker}}}\n'
        self._lines: list[str] = []
        self._second, self._start = -1, ""

    def __call__(  # noqa: PLR0913, PLR0917  # the members of a line
        self,
        method: str,
        path: str,
        status: int,
        ms: float,
        request_id: str,
        remote: str,
        cache: str | None,
        failure: Failure | None = None,
        trace_id: str = "",
    ) -> None:
        if status >= FIRST_ERROR and self._leaves_out(status, remote):
            return
        now = time.time_ns()
        if not self._second <= now < self._second + SECOND:
            self._begin_second(now)
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        trace = f'"trace_id": "{trace_id}", ' if trace_id else ""
        self._lines.append(
            f'{{"method": {as_json(method)}, "path": {as_json(without_secrets(path))}, "status": {status}, '
            f'"ms": {ms:.2f}, "request_id": "{request_id}", "remote": {as_json(remote)}, '
            f"{_CACHE[cache] if failure is None else _json_members(failure)}{trace}{self._start}"
            f'{str(now)[MICROSECONDS]}Z"{self._end}'
        )

    def log_read(self, guid: str, ms: float, request_id: str, remote: str, cache: str) -> None:
        now = time.time_ns()
        if not self._second <= now < self._second + SECOND:
            self._begin_second(now)
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(
            f'{{"method": "GET", "path": "/guid/{guid}", "status": 200, "ms": {ms:.2f}, "request_id": "{request_id}", '
            f'"remote": {as_json(remote)}, {_CACHE[cache]}{self._start}{str(now)[MICROSECONDS]}Z"'
            f"{self._end}"
        )

    def _begin_second(self, now: int) -> None:
        """Render the common part of the lines of this second."""
        self._second = now - now % SECOND
        self._start = (
            '"event": "request", "logger": "guidsvc.access", "level": "info", '
            f'"timestamp": "{time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // SECOND))}.'
        )

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        for part in [lines] if self._most is None else split_by_size(lines, self._most):
            self._out.write("".join(part))
            self._out.flush()


def _json_members(failure: Failure) -> str:
    """Return the members of a failure as JSON, each cut to MEMBER_CHARACTERS."""
    return "".join(f'"{name}": {_bounded_json(value)}, ' for name, value in failure.items())


def _bounded_json(text: str) -> str:
    text = text[:MEMBER_CHARACTERS]
    while len(dumps(text)) > MEMBER_CHARACTERS:  # a character may take up to twelve
        text = text[: 3 * len(text) // 4]
    return dumps(text)


def split_by_size(lines: Iterable[str], most: int) -> Iterator[list[str]]:
    """Group lines into parts of at most `most` characters; a longer line is a part of its own."""
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
