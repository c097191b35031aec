"""The access log: one line per request."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from json import dumps
from typing import Protocol, TextIO
from urllib.parse import quote, unquote

import structlog

from guidsvc.http.client_address import network_of
from guidsvc.monitoring.line_limit import LineLimit
from guidsvc.monitoring.log_config import ACCESS, Form, is_readable
from guidsvc.telemetry.tracing import L1, MISS, REDIS

PIPE_BUF = 4096
"""Maximum size of an atomic write to a shared pipe, in bytes (Linux; `select.PIPE_BUF`)."""
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.TOO_MANY_REQUESTS})
"""Statuses of rejected requests, whose access lines are limited."""
_SECRETS = re.compile(r"(gs_[0-9A-Za-z]{12}_)\w+|(eyJ)[\w-]{8,}[\w.-]*")
"""Secrets that a path may contain by mistake: an API key, whose id may be logged, or a JWT."""

_ENCODED_PERCENT = re.compile("%(?:25)+")
"""A percent sign, encoded one or more times."""
_SAFE = "/:@!$&'()*+,;=~"
"""Characters that a path may contain unencoded (RFC 3986, 3.3), besides letters, digits and `-._~`."""


class AccessLog:
    """Writer of access lines. Those of rejected requests are limited per address."""

    def __init__(self) -> None:
        self.limit = LineLimit(_report_refused)

    def __call__(  # noqa: PLR0913, PLR0917  # the members of a line
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None
    ) -> None:
        """Write a line; `ms` is the duration, and `cache` the source of the record, if one was read."""
        raise NotImplementedError

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
        return _Readable()
    return _JsonAccessLog(sys.stderr, worker)


class _Readable(AccessLog):
    """Access lines in readable form."""

    def __call__(  # noqa: PLR0913, PLR0917  # the members of a line
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None
    ) -> None:
        if self._leaves_out(status, remote):
            return
        fields = {
            "method": method,
            "path": without_secrets(path),
            "status": status,
            "ms": ms,
            "request_id": request_id,
            "remote": remote,
        }
        structlog.get_logger(ACCESS).info("request", **fields, **({} if cache is None else {"cache": cache}))


_CACHE = {None: ""} | {source: f'"cache": "{source}", ' for source in (L1, REDIS, MISS)}


def without_secrets(path: str) -> str:
    """Return a path with the secret of an API key, or a token, replaced by `...`."""
    if "%" in path:
        decoded = unquote(_ENCODED_PERCENT.sub("%", path))
        return quote(_redacted(decoded), safe=_SAFE) if _SECRETS.search(decoded) else path
    if "gs_" not in path and "eyJ" not in path:
        return path
    return _redacted(path)


def _redacted(text: str) -> str:
    return _SECRETS.sub(lambda match: f"{match[1] or match[2]}...", text)


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
        for part in [lines] if self._most is None else split_by_size(lines, self._most):
            self._out.write("".join(part))
            self._out.flush()


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


class Log(Protocol):
    """A writer of access lines."""

    def __call__(  # noqa: PLR0913, PLR0917  # the members of a line; grouping them costs more than writing it
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None, /
    ) -> None:
        """Write a line; `ms` is the duration, `remote` the client, `cache` the record's source, if one was read."""
