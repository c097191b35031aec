"""The time limits of a batch: pauses of its client, the whole batch, its response, its authority, and the shutdown."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from guidsvc.errors import ClientDisconnected, GuidsvcError, Unauthorized
from guidsvc.runtime.background import spawn_restarting

PAUSE_SECONDS = 30.0
"""A connection is closed if the client sends nothing for this time in the middle of its lines, in seconds."""
AUTHORITY_SECONDS = 0.5
"""Time between two checks whether the caller still has its authority, in seconds."""

SHUTDOWN_SECONDS = 1.0
"""Time for the rest of the lines once the service shuts down, in seconds; at most half of the grace period."""

DOCUMENT_MARGIN_SECONDS = 1.0
"""Time before the end of the grace period at which a document ends early; at most half of the period."""


class LineBatchTimers:
    """The timers of a request; cancelling one that was not started has no effect."""

    def __init__(self) -> None:
        self._idle: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._shutdown: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_receiving(self) -> bool:
        """Whether the client has not sent all of its lines: the deadline was started, and not cancelled."""
        return self._deadline is not None and not self._deadline.cancelled()

    def start_idle(self, on_idle: Callable[[], object]) -> None:
        """Call `on_idle` after PAUSE_SECONDS, unless cancelled first."""
        self._idle = asyncio.get_running_loop().call_later(PAUSE_SECONDS, on_idle)

    def cancel_idle(self) -> None:
        """Cancel the timer for pauses: the client has sent something, or is not expected to."""
        if self._idle is not None:
            self._idle.cancel()

    def start_deadline(self, seconds: float, on_deadline: Callable[[], object]) -> None:
        """Call `on_deadline` after this time, unless cancelled first."""
        self._deadline = asyncio.get_running_loop().call_later(seconds, on_deadline)

    def start_shutdown(self, grace_seconds: float, on_shutdown: Callable[[], object]) -> None:
        """Call `on_shutdown` after SHUTDOWN_SECONDS, unless cancelled first; sooner if the grace period is short."""
        seconds = min(SHUTDOWN_SECONDS, grace_seconds / 2)
        self._shutdown = asyncio.get_running_loop().call_later(seconds, on_shutdown)

    def start_watch(self, confirm: Callable[[], Awaitable[None]], on_end: Callable[[Unauthorized], object]) -> None:
        """Call `confirm` at intervals, until it raises Unauthorized; then call `on_end` with the error."""
        self._watch = spawn_restarting(partial(_watch, confirm, on_end))

    def cancel_batch(self) -> None:
        """Cancel the timers of the whole batch: its time limit, its watch, and that of a shutdown."""
        for timer in (self._deadline, self._shutdown, self._watch):
            if timer is not None:
                timer.cancel()


def stop_before_end(grace_seconds: float, stop: Callable[[], object]) -> None:
    """Call `stop` DOCUMENT_MARGIN_SECONDS before the end of the grace period, which ends in `grace_seconds`."""
    asyncio.get_running_loop().call_later(grace_seconds - min(DOCUMENT_MARGIN_SECONDS, grace_seconds / 2), stop)


@asynccontextmanager
async def reading_limit(seconds: float) -> AsyncIterator[None]:
    """Send a response inside the block. Raise ClientDisconnected if its client does not read it within `seconds`.

    The response takes temporary space of all clients until it is read.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise ClientDisconnected(f"its client did not read the response within {seconds:g} s") from error


async def _watch(confirm: Callable[[], Awaitable[None]], on_end: Callable[[Unauthorized], object]) -> None:
    while True:
        await asyncio.sleep(AUTHORITY_SECONDS)
        try:
            await confirm()
        except Unauthorized as error:
            on_end(error)
            return
        except GuidsvcError:
            continue  # the store does not answer: the next group of lines reports it
