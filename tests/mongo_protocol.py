"""SecantusDB's server, as its own command starts it, with the retries of writes as MongoDB has them.

A driver sends a write again whose answer was lost, and the server then answers what it did the first time. SecantusDB
takes it for another write if less of the caller's time is left, or while the first is still being done; it does it
again, and says that there was nothing to do.
"""

import sys
import threading
from typing import Any

from secantus import commands
from secantus.cli import main
from secantus.transactions import TransactionRegistry

WAIT_SECONDS = 10.0

commands._RETRY_IDENTITY_IGNORED |= {"maxTimeMS"}


def _wait_for_the_first(kept: Any) -> None:
    """Have who asks again wait until what it asked for first has been done."""
    under_way: dict[tuple[bytes, int], threading.Event] = {}
    lock = threading.Lock()
    recall, record = kept.retryable_reply, kept.record_retryable

    def recall_when_done(self: Any, session: bytes, number: int, identity: bytes) -> Any:
        with lock:
            first = (session, number) not in under_way
            done = under_way.setdefault((session, number), threading.Event())
        if not first:
            done.wait(WAIT_SECONDS)
        return recall(self, session, number, identity)

    def record_and_tell(self: Any, session: bytes, number: int, identity: bytes, reply: Any) -> None:
        record(self, session, number, identity, reply)
        with lock:
            done = under_way.pop((session, number), None)
        if done is not None:
            done.set()

    kept.retryable_reply, kept.record_retryable = recall_when_done, record_and_tell


if __name__ == "__main__":
    _wait_for_the_first(TransactionRegistry)
    sys.exit(main())
