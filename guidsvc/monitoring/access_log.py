"""The access log: one line a request."""

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

from guidsvc.http.client_address import place_of
from guidsvc.monitoring.line_limit import LineLimit
from guidsvc.monitoring.log_config import ACCESS, Form, is_readable
from guidsvc.telemetry.tracing import L1, MISS, REDIS

PIPE_BUF = 4096
"""Bytes that a pipe takes in one piece, whoever else writes into it (Linux; `select.PIPE_BUF`)."""
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.MISDIRECTED_REQUEST, HTTPStatus.TOO_MANY_REQUESTS})
"""Requests that were answered so have a limit of access lines."""
_SECRETS = re.compile(r"(gs_[0-9A-Za-z]{12}_)\w+|(eyJ)[\w-]{8,}[\w.-]*")
"""What may be in a path by mistake: an API key, of which the id may be told; a JWT."""

_ENCODED_PERCENT = re.compile("%(?:25)+")
"""A percent sign, however often it was encoded."""
_SAFE = "/:@!$&'()*+,;=~"
"""What a path may hold as it stands (RFC 3986, 3.3), beside letters, digits and `-._~`."""


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
    return _JsonAccessLog(sys.stderr, worker)


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
    if "%" in path:
        decoded = unquote(_ENCODED_PERCENT.sub("%", path))
        return quote(_redacted(decoded), safe=_SAFE) if _SECRETS.search(decoded) else path
    if "gs_" not in path and "eyJ" not in path:
        return path
    return _redacted(path)


def _redacted(text: str) -> str:
    return _SECRETS.sub(lambda found: f"{found[1] or found[2]}...", text)


class _JsonAccessLog(AccessLog):
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


class Log(Protocol):
    """Writes a line: what was asked, how it was answered, in how many ms, its request id, by whom, and whence."""

    def __call__(  # noqa: PLR0913, PLR0917  # what a line holds; to gather it costs more than to write it
        self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, cache: str | None, /
    ) -> None:
        """Write it; `cache` is where the record came from, if one was read."""
