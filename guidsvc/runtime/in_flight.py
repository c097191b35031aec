"""Which requests are under way, so that the end of the service can wait for theirs."""

import asyncio


class InFlightRequests:
    """The requests that are being served.

    `draining` says that the service is about to end, and that a connection ends with its next answer; `over` that it
    has ended, and that no request may begin.
    """

    def __init__(self) -> None:
        self.draining = self.closed = False
        self._requests: set[object] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Count them."""
        return len(self._requests)

    def add(self, request: object) -> None:
        """Note that a request has begun."""
        self._requests.add(request)
        self._idle.clear()

    def discard(self, request: object) -> None:
        """Note that a request is over, if it was under way."""
        self._requests.discard(request)
        if not self._requests:
            self._idle.set()

    async def ended(self) -> None:
        """Return when no request is under way."""
        await self._idle.wait()
