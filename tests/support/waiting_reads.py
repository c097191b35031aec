"""Plain reads that wait for Redis, which answers when the test lets it.

waiting_reads   a Redis for one test, and the plain reads that a service has begun in it; no time limit ends their wait
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from guidsvc.api.fast_path.direct_read import DirectRead
from guidsvc.cache.redis import cache as redis_cache
from guidsvc.cache.redis.begun_read import BegunRead
from guidsvc.cache.redis.counters import open_counters
from tests.support.backing_servers import Server
from tests.support.time_limit import within

PATIENT_SECONDS = 60.0
"""Time limit of Redis, and of every wait here: longer than a busy machine delays anything."""


class WaitingReads:
    """The plain reads that were begun in `redis`."""

    def __init__(self, redis: Server) -> None:
        self._redis = redis
        self.reads: list[DirectRead] = []
        self._begun_before = 0  # number of reads that had begun when Redis was held

    @property
    def cache_url(self) -> str:
        """The URL of the cache for the settings of the service."""
        return f"redis://127.0.0.1:{self._redis.port}/0"

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let Redis answer nothing within the block, and everything after it."""
        self._begun_before = len(self.reads)
        self._redis.pause()
        try:
            yield
        finally:
            self._redis.resume()

    async def until_begun(self, count: int) -> None:
        """Wait until this number of reads have begun since Redis is held."""
        async with within(PATIENT_SECONDS, f"{count} reads begun in Redis"):
            while len(self.reads) - self._begun_before < count:
                await asyncio.sleep(0)

    async def until_in_redis(self, read: Callable[[], Awaitable[object]]) -> None:
        """Repeat a read until Redis has its record: the first reads fill it in the background."""
        async with within(PATIENT_SECONDS, "a read from Redis"):
            while not (self.reads and begun(self.reads[-1]).record):
                await read()
                await asyncio.sleep(0.01)

    async def until_session_ended(self) -> None:
        """Wait until the session of the last read has ended."""
        session = self.reads[-1]._session
        assert session is not None
        async with within(PATIENT_SECONDS, "the end of a session"):
            while session.is_valid:
                await asyncio.sleep(0)

    async def until_in_flight(self, count: int) -> None:
        """Wait until this number of requests are in flight."""
        requests = self.reads[-1]._pipeline.in_flight
        async with within(PATIENT_SECONDS, f"{count} requests in flight"):
            while len(requests) != count:
                await asyncio.sleep(0)

    def assert_nothing_is_left(self) -> None:
        """Assert that the reads hold nothing any more: no place among the requests in flight, no slot, no key."""
        assert not len(self.reads[-1]._pipeline.in_flight)
        assert self.reads[-1]._pipeline.admission.is_idle()
        assert not begun(self.reads[-1])._registration._all_readers  # type: ignore[attr-defined]


def begun(read: DirectRead) -> BegunRead:
    """Return the read of Redis of a request that has begun one."""
    assert isinstance(read._begun, BegunRead)
    return read._begun


@pytest.fixture
def waiting_reads(own_redis: Server, monkeypatch: pytest.MonkeyPatch) -> WaitingReads:
    waiting = WaitingReads(own_redis)
    answer_soon = DirectRead.answer_soon

    def record(read: DirectRead, callback: Callable[[bytes | None], object]) -> bool:
        has_begun = answer_soon(read, callback)
        if has_begun:
            waiting.reads.append(read)
        return has_begun

    monkeypatch.setattr(DirectRead, "answer_soon", record)
    timing = replace(redis_cache.TIMING, redis=PATIENT_SECONDS)
    monkeypatch.setitem(inspect.unwrap(redis_cache.open_redis_cache).__kwdefaults__, "timing", timing)
    monkeypatch.setitem(inspect.unwrap(open_counters).__kwdefaults__, "timeout_seconds", PATIENT_SECONDS)
    return waiting
