"""SecantusDB's server, as its own command starts it, with prompt TTL indexes and MongoDB's retries of writes.

MongoDB's TTL monitor deletes what is due within 60 s, so a test that stores a record with a `purge_at` in the past
fails only where it is slow. Here such documents are deleted before each `find`, and it fails every time.

A driver sends a write again whose answer was lost, and the server then answers what it did the first time. SecantusDB
takes it for another write if less of the caller's time is left, or while the first is still being done; it does it
again, and says that there was nothing to do.

It remembers its last ten thousand answers to writes, and sorts them all at each write, which takes longer than the
write. Here it looks at the oldest ones only.
"""

import sys
import threading
from collections import OrderedDict
from typing import Any

from secantus import commands, transactions
from secantus.cli import main
from secantus.transactions import TransactionRegistry

WAIT_SECONDS = 10.0
LAZY_TTL = "--lazy-ttl"
"""Leaves due documents to the monitor, for a load that stores none and wants the speed."""

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


def _forget_the_oldest_answers_first(kept: Any) -> None:
    """Have the answers to writes ordered by age, so that those to forget are found without a look at the others."""
    create = kept.__init__

    def create_ordered(self: Any, *arguments: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        self._retryable = OrderedDict(self._retryable)

    def forget(self: Any) -> None:
        answers = self._retryable
        oldest_seconds = self._time() - transactions._RETRYABLE_RECORD_LIFETIME_SECONDS
        while answers and (
            len(answers) > transactions._RETRYABLE_RECORD_MAX or next(iter(answers.values()))[1] < oldest_seconds
        ):
            answers.popitem(last=False)

    kept.__init__, kept._prune_retryable_locked = create_ordered, forget


def _delete_due_documents_before(name: str) -> None:
    """Have a command see its collection as the TTL monitor would leave it."""
    run = commands._HANDLERS[name]

    def run_after_monitor(document: dict[str, Any], context: Any) -> Any:
        context.storage.prune_ttl(document["$db"], document[name])
        return run(document, context)

    commands._HANDLERS[name] = run_after_monitor


if __name__ == "__main__":
    if LAZY_TTL in sys.argv:
        sys.argv.remove(LAZY_TTL)
    else:
        _delete_due_documents_before("find")
        _delete_due_documents_before("aggregate")
    _wait_for_the_first(TransactionRegistry)
    _forget_the_oldest_answers_first(TransactionRegistry)
    sys.exit(main())
