"""In-flight requests, which shutdown waits for."""

import asyncio


class InFlightRequests:
    """The requests in flight, and the shutdown state.

    `draining`: the service is shutting down, and each connection closes after its next response. `closed`: the service
    has ended, and no request may begin.
    """

    def __init__(self) -> None:
        self.draining = self.closed = False
        self._requests: set[object] = set()
        self._idle: asyncio.Event | None = None  # while somebody waits

    def __len__(self) -> int:
        """Return the number of requests in flight."""
        return len(self._requests)

    def add(self, request: object) -> None:
        """Add a request that has begun."""
        self._requests.add(request)

    def discard(self, request: object) -> None:
        """Remove a request that has ended, if it is present."""
        self._requests.discard(request)
        if self._idle is not None and not self._requests:
            self._idle.set()
            self._idle = None

    async def wait_until_idle(self) -> None:
        """Wait until no request is in flight."""
        if self._requests:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()
