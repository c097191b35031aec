"""Which requests are under way, so that the end of the service can wait for theirs."""

import asyncio


class UnderWay:
    """The requests that are being served.

    `draining` says that the service is about to end; `over` that it has, and that no request may begin.
    """

    def __init__(self) -> None:
        self.draining = self.over = False
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

    async def drain(self, seconds: float) -> bool:
        """Begin to drain; return True when no request is under way, False if one still is after this time."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self.over = True
        return True
