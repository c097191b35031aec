"""A read of Redis in progress, without a task: most reads end with its reply, and need no more than a callback."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, TypeVar

from guidsvc.cache.redis.link import ScriptResult
from guidsvc.domain.record import Record
from guidsvc.errors import CacheUnavailable
from guidsvc.runtime.fairness.decoding_turns import FREE_BYTES
from guidsvc.telemetry.metrics import Latency

Readers = TypeVar("Readers")


class BegunRead:
    """Implements `guidsvc.store.contract.BegunGet`.

    `registration` is held until the reply. `cached` takes the record from the reply, if it holds one; else `uncached`
    completes the read. The reply is None if Redis is unavailable. A large value is not decoded in the callback: `again`
    reads it another time, in the task of the request, and decodes it in a turn of the caller.
    """

    __slots__ = (
        "_again",
        "_begun_at",
        "_cached",
        "_callback",
        "_latency",
        "_readers",
        "_registration",
        "_reply",
        "_uncached",
        "record",
    )

    def __init__(
        self,
        reply: asyncio.Future[ScriptResult],
        registration: AbstractContextManager[Readers],
        cached: Callable[[ScriptResult | None, Readers], Record | None],
        uncached: Callable[[ScriptResult | None], Coroutine[Any, Any, Record | None]],
        again: Callable[[], Coroutine[Any, Any, Record | None]],
        latency: Latency,
    ) -> None:
        self.record: Record | None = None
        self._callback: Callable[[], object] | None = None
        self._registration = registration
        self._readers = registration.__enter__()  # until the reply, which always comes
        self._cached = cached
        self._uncached = uncached
        self._again = again
        self._latency = latency
        self._begun_at = perf_counter()
        self._reply: ScriptResult | None = None
        reply.add_done_callback(self._on_reply)

    def on_reply(self, callback: Callable[[], object]) -> None:
        self._callback = callback

    async def finish(self) -> Record | None:
        if self.record is not None:
            return self.record
        return await (self._again() if is_large(self._reply) else self._uncached(self._reply))

    def _on_reply(self, reply: asyncio.Future[ScriptResult]) -> None:
        self._latency.observe(perf_counter() - self._begun_at)
        try:
            if not isinstance(reply.exception(), CacheUnavailable):
                self._reply = reply.result()
            if not is_large(self._reply):
                self.record = self._cached(self._reply, self._readers)
        finally:
            self._registration.__exit__(None, None, None)
            if self._callback is not None:
                self._callback()


def is_large(reply: ScriptResult | None) -> bool:
    """Return whether a reply has a value that must be decoded in a turn."""
    return reply is not None and reply.value is not None and len(reply.value) > FREE_BYTES
