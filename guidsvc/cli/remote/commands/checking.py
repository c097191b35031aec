"""`check`: measure how fast the service responds to this host, with records that are deleted afterwards."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import click

from guidsvc.cli import output
from guidsvc.cli.exit_codes import FAILED
from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.curl import RequestCaptured, curl_line
from guidsvc.cli.remote.progress import progress
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import DURATION
from guidsvc_client import Client, GuidsvcError, NotFound, Problem

USER = "guidsvc check"
OPERATIONS = ("create", "read", "delete")
CLIENTS, READS = 4, 10
"""Number of concurrent clients, and of reads after each creation."""
LEFTOVER_SECONDS = 60
"""Lifetime of the records after the end of the check, if it is killed before it can delete them."""
CUT_ATTEMPTS, CUT_PAUSE_SECONDS = 5, 0.2
"""Number of attempts to delete the record of an interrupted creation, and the pause between them."""
_STEP = math.log(1.02)
"""The width of a bucket of durations, as a logarithm: two per cent."""
COLUMNS = ("operation", "count", "per_second", "p50_ms", "p99_ms", "errors")


@dataclass
class Timings:
    """The durations of one operation, in buckets, and its errors by code."""

    buckets: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        """Add a duration."""
        self.buckets[math.ceil(math.log(max(seconds, 1e-6)) / _STEP)] += 1

    def quantile_ms(self, share: float) -> float:
        """Return the duration, in milliseconds, that this share does not exceed."""
        wanted = math.ceil(self.buckets.total() * share)
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 0:
                return round(math.exp(bucket * _STEP) * 1000, 3)
        return 0.0


class _Check:
    """Clients that create, read and delete until the end."""

    def __init__(self, client: Client, seconds: int) -> None:
        self.timings = {name: Timings() for name in OPERATIONS}
        self._client = client.with_options(retries=0)
        self._seconds = seconds
        self._end = threading.Event()
        self._lock = threading.Lock()

    def try_once(self) -> None:
        """Do each operation once. An error of it is one of the command."""
        guid = uuid4()
        try:
            self._client.put(guid, user=USER, ttl=LEFTOVER_SECONDS, if_none_match="*")
            self._client.get(guid)
            self._client.delete(guid)
        except KeyboardInterrupt:
            for _ in range(CUT_ATTEMPTS):  # the service may still execute the interrupted creation
                if self._clean_up(guid):
                    break
                time.sleep(CUT_PAUSE_SECONDS)
            raise

    def run(self, advance: Callable[[int], None]) -> float:
        """Run until the end of the time; return the duration in seconds."""
        threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]
        began = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            for _ in range(self._seconds):
                self._end.wait(1)
                advance(1)
        finally:
            self._end.set()
            for thread in threads:
                if thread.ident is not None:  # an interruption may come before all have started
                    thread.join()
        return time.monotonic() - began

    def _work(self) -> None:
        while not self._end.is_set():
            self._round(uuid4())

    def _round(self, guid: Any) -> None:
        ttl = self._seconds + LEFTOVER_SECONDS
        try:
            with self._timed("create"):
                self._client.put(guid, user=USER, ttl=ttl, if_none_match="*")
            for _ in range(READS):
                with self._timed("read"):
                    self._client.get(guid)
            with self._timed("delete"):
                self._client.delete(guid)
        except GuidsvcError:
            self._clean_up(guid)
            self._end.wait(0.1)

    def _clean_up(self, guid: Any) -> bool:
        """Delete the record of a round that had an error, also if its creation may have had success. Was it there?"""
        try:
            self._client.with_options(retries=3).delete(guid)
        except NotFound:
            return False
        except GuidsvcError as error:
            with self._lock:
                self.timings["delete"].errors[_name(error)] += 1
        return True

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except GuidsvcError as error:
            with self._lock:
                self.timings[operation].errors[_name(error)] += 1
            raise
        seconds = time.perf_counter() - began
        with self._lock:
            self.timings[operation].add(seconds)


@click.command(cls=RemoteCommand, is_write=True, examples=["check", "check --seconds 60 -o json"])
@click.option(
    "--seconds", type=DURATION, default=10, metavar="DURATION", help="how long to measure [default: 10 seconds]"
)
@click.pass_context
def check(ctx: click.Context, seconds: int) -> None:
    """Measure how fast the service creates, reads and deletes. It deletes its records; exit with 1 on errors."""
    remote: Remote = ctx.obj
    if remote.is_curl:
        _print_curl(remote)
        return
    checked = _Check(remote.client, seconds)
    checked.try_once()
    with progress(remote, "check", seconds) as advance:
        lasted = checked.run(advance)
    remote.rendering.rows(COLUMNS, [_document(name, each, lasted) for name, each in checked.timings.items()])
    if any(each.errors for each in checked.timings.values()):
        ctx.exit(FAILED)


def _print_curl(remote: Remote) -> None:
    """Print the requests of one round."""
    guid = uuid4()
    client = remote.client
    requests: list[Callable[[], object]] = [
        lambda: client.put(guid, user=USER, ttl=LEFTOVER_SECONDS, if_none_match="*"),
        lambda: client.get(guid),
        lambda: client.delete(guid),
    ]
    for request in requests:
        try:
            request()
        except RequestCaptured as captured:
            output.write(f"{curl_line(captured.request)}\n")


def _document(name: str, timings: Timings, lasted: float) -> dict[str, object]:
    count = timings.buckets.total()
    return {
        "operation": name,
        "count": count,
        "per_second": round(count / lasted, 1),
        "p50_ms": timings.quantile_ms(0.5),
        "p99_ms": timings.quantile_ms(0.99),
        "errors": dict(timings.errors),
    }


def _name(error: GuidsvcError) -> str:
    return error.code if isinstance(error, Problem) else type(error).__name__
