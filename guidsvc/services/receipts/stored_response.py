"""Reader of the responses stored in receipts.

A few KiB of compressed text may unpack to megabytes. Large responses are unpacked in threads, with bounded concurrency
and fairly between callers, so that replays never block the event loop. What follows must be cheap: the place of a
response is free by then.
"""

from guidsvc.runtime.background import in_thread
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.services.receipts.quota import unpack, unpack_small

READERS = 2
"""Maximum number of large responses unpacked concurrently, one per caller."""
WAIT_SECONDS = 1.0
"""Maximum time that a replay waits for its place."""


class StoredResponseReader:
    """The reader of stored responses, shared by all callers in a process."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._slots = FairSemaphore(READERS)
        self._wait_seconds = wait_seconds

    async def read(self, queue_name: str, text: str) -> bytes:
        """Unpack a response that `pack` encoded; raise Overloaded if a large one waits too long."""
        rendered = unpack_small(text)
        if rendered is not None:
            return rendered
        message = "too many large stored answers are being read; retry later"
        async with self._slots.slot_within(queue_name, self._wait_seconds, message):
            return await in_thread(unpack, text)
