"""A waiter in the queue of admission."""

import asyncio


class SlotWaiter:
    """A request that waits for a slot."""

    __slots__ = ("future", "patient", "since")

    def __init__(self, future: asyncio.Future[None], since: float, *, patient: bool) -> None:
        self.future = future
        self.since = since
        self.patient = patient

    @property
    def has_slot(self) -> bool:
        """Whether it has got a slot."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    def done(self) -> bool:
        """Return whether it no longer waits."""
        return self.future.done()
