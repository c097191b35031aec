"""In-flight requests, which shutdown waits for."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class InFlightRequest(Protocol):
    """A request in flight."""

    def on_grace_end(self) -> None:
        """Respond now if no part of the request was executed: the service is about to end."""


class InFlightRequests:
    """The requests in flight, and the shutdown state.

    `draining`: the service is shutting down, and each connection closes after its next response. `closed`: the service
    has ended, and no request may begin.
    """

    def __init__(self) -> None:
        self.draining = self.closed = False
        self._requests: set[InFlightRequest] = set()
        self._idle: asyncio.Event | None = None  # while somebody waits
        self._drain_callbacks: dict[InFlightRequest, Callable[[float], object]] = {}
        self._ends_at = 0.0  # loop time of the end of the grace period

    def __len__(self) -> int:
        """Return the number of requests in flight."""
        return len(self._requests)

    def add(self, request: InFlightRequest) -> None:
        """Add a request that has begun."""
        self._requests.add(request)

    def discard(self, request: InFlightRequest) -> None:
        """Remove a request that has ended, if it is present."""
        self._requests.discard(request)
        if self._drain_callbacks:
            self._drain_callbacks.pop(request, None)
        if self._idle is not None and not self._requests:
            self._idle.set()
            self._idle = None

    def begin_draining(self, grace_seconds: float) -> None:
        """Begin the shutdown: from now on, each connection closes after its next response."""
        self.draining, self._ends_at = True, asyncio.get_running_loop().time() + grace_seconds
        callbacks, self._drain_callbacks = self._drain_callbacks, {}
        for callback in callbacks.values():
            callback(grace_seconds)

    def call_on_drain(self, request: InFlightRequest, callback: Callable[[float], object]) -> None:
        """Call `callback` once the shutdown has begun, unless the request has ended.

        Its argument is the time until requests are aborted, in seconds.
        """
        if self.draining:
            callback(max(0.0, self._ends_at - asyncio.get_running_loop().time()))
        else:
            self._drain_callbacks[request] = callback

    def close(self) -> None:
        """End the service: requests that are still in flight are aborted now."""
        self.closed = True
        for request in list(self._requests):
            request.on_grace_end()

    async def wait_until_idle(self) -> None:
        """Wait until no request is in flight."""
        if self._requests:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()
