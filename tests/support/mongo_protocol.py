"""SecantusDB's server with prompt TTL indexes and MongoDB's behaviour for retried writes.

MongoDB's TTL monitor deletes due documents within 60 s, so a test that stores a record with a `purge_at` in the past
would fail only on a slow machine. Here such documents are deleted before each `find`, so it always fails.

A driver retries a write whose response was lost, and MongoDB then repeats its first response. SecantusDB considers the
retry another write if its `maxTimeMS` differs, or while the first is still executed: it executes the retry, and reports
that there was nothing to do.

SecantusDB keeps its last ten thousand responses to writes, and sorts them at each write, which takes longer than the
write. Here only the oldest ones are examined.

Its main thread waits without a time limit for the end. Another thread may receive SIGTERM, whose handler then never
runs. Here the main thread wakes up at intervals, so that the handler runs.

SecantusDB reads the settings of the profiler from the disk after each command, which takes a tenth of the time. No test
uses the profiler. Keys and values are packed as `tests.support.mongo_packing` says.
"""

import faulthandler
import sys
import threading
import time
from collections import OrderedDict
from typing import Any, NoReturn

from secantus import commands, transactions
from secantus.cli import main
from secantus.server import SecantusDBServer
from secantus.transactions import TransactionRegistry

from tests.support import mongo_packing

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.2
LAZY_TTL = "--lazy-ttl"
"""Option that leaves due documents to the monitor: faster, for a load that stores none."""

commands._RETRY_IDENTITY_IGNORED |= {"maxTimeMS"}


def _make_retries_wait(registry: Any) -> None:
    """Let a retry wait until the first execution of its write has ended."""
    running_writes: dict[tuple[bytes, int], threading.Event] = {}
    lock = threading.Lock()
    recall, record = registry.retryable_reply, registry.record_retryable

    def recall_when_ended(self: Any, session: bytes, number: int, identity: bytes) -> Any:
        with lock:
            is_first = (session, number) not in running_writes
            ended = running_writes.setdefault((session, number), threading.Event())
        if not is_first:
            ended.wait(WAIT_SECONDS)
        return recall(self, session, number, identity)

    def record_and_release(self: Any, session: bytes, number: int, identity: bytes, reply: Any) -> None:
        record(self, session, number, identity, reply)
        with lock:
            ended = running_writes.pop((session, number), None)
        if ended is not None:
            ended.set()

    registry.retryable_reply, registry.record_retryable = recall_when_ended, record_and_release


def _order_responses_by_age(registry: Any) -> None:
    """Keep the responses to writes ordered by age, so that only those to be dropped are examined."""
    create = registry.__init__

    def create_ordered(self: Any, *arguments: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        self._retryable = OrderedDict(self._retryable)

    def forget(self: Any) -> None:
        responses = self._retryable
        oldest_seconds = self._time() - transactions._RETRYABLE_RECORD_LIFETIME_SECONDS
        while responses and (
            len(responses) > transactions._RETRYABLE_RECORD_MAX or next(iter(responses.values()))[1] < oldest_seconds
        ):
            responses.popitem(last=False)

    registry.__init__, registry._prune_retryable_locked = create_ordered, forget


def _delete_due_documents_before(name: str) -> None:
    """Delete due documents of a collection before each of these commands, like the TTL monitor."""
    run = commands._HANDLERS[name]

    def run_after_monitor(document: dict[str, Any], context: Any) -> Any:
        context.storage.prune_ttl(document["$db"], document[name])
        return run(document, context)

    commands._HANDLERS[name] = run_after_monitor


def _wait_at_intervals(server: Any) -> None:
    """Let the main thread wake up while it waits, because only then it runs the handlers of signals.

    It must hold no lock of the event meanwhile, as the handler sets the event.
    """

    def wait(self: Any) -> None:
        while not self._stop_event.is_set():
            time.sleep(POLL_SECONDS)

    server.wait = wait


def run() -> NoReturn:
    """Run the server with the options of the command line."""
    if LAZY_TTL in sys.argv:
        sys.argv.remove(LAZY_TTL)
    else:
        _delete_due_documents_before("find")
        _delete_due_documents_before("aggregate")
    faulthandler.enable()
    _wait_at_intervals(SecantusDBServer)
    _make_retries_wait(TransactionRegistry)
    _order_responses_by_age(TransactionRegistry)
    commands._maybe_record_profile = lambda *_: None
    mongo_packing.install()
    sys.exit(main())


if __name__ == "__main__":
    run()
