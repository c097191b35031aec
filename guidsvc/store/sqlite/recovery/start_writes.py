"""The writes of a start: they invalidate the state of earlier processes in the file, before any other change.

A disk that takes no writes must not stop the reads of a service that starts. So these writes are postponed to the first
transaction that succeeds, and come first in it. Until then the file is as the last process left it: nothing depends on
them but the cache fence, which counts as void meanwhile, and the claim, which stays exclusive.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from guidsvc.store.sqlite.schema import MAKE_BOUNDS, MAKE_FENCE, MAKE_IDENTITY, start_error
from guidsvc.store.sqlite.writer import Writer, is_disk_fault

FORGET = "UPDATE fence SET mode = 'off', gen = gen + 1 + (random() & 0x3FFFFFFF), boot = ''"
"""Voids all cached entries: the file may have been restored from a backup.

The generation is random: after any number of steps, that of a restored file could match an epoch of the replaced file,
which Redis still has. It stays below 2**53, which a script of Redis needs, for sixteen million starts.
"""
RENAME = "UPDATE identity SET name = lower(hex(randomblob(8)))"
"""Gives the store a new id, so that no process on a copy of the file shares its key space in Redis."""
LET_GO = "UPDATE receipts SET leased_until = 0 WHERE answer IS NULL"
"""Releases every lease, none of which is that of a running process."""

_log = structlog.get_logger(__name__)


class StartWrites(NamedTuple):
    """The writes of a start in a file: `alone` without another process, `exclusive` without one until the end."""

    path: Path
    alone: bool
    exclusive: bool

    def try_now(self, connection: sqlite3.Connection) -> bool:
        """Execute the writes in a transaction; return False if the disk takes none. StartError for other faults."""
        if not self.alone:
            return True  # the first process has done it
        try:
            connection.execute("BEGIN IMMEDIATE")
            self.apply(connection, renames=True)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not is_disk_fault(error):
                raise start_error(self.path, error) from error
            _log.warning("store cannot be written, starting with reads only", file=str(self.path), error=str(error))
            return False
        if self.exclusive:
            self._release_leases(connection)
        return True

    def postpone(self, writer: Writer, on_done: Callable[[], None]) -> None:
        """Execute the writes with the first transaction that succeeds, and call `on_done` in its thread after it."""
        begin, commit = writer.on_begin, writer.on_commit

        def apply_first() -> None:
            self.apply(writer.connection, renames=self.exclusive)  # else the id is in use by now
            begin()

        def end() -> None:
            writer.on_begin, writer.on_commit = begin, commit
            on_done()
            commit()

        writer.on_begin, writer.on_commit = apply_first, end
        writer.is_failing = True  # so that the checks of the store try a write

    def apply(self, connection: sqlite3.Connection, *, renames: bool) -> None:
        """Execute the writes inside a transaction; `renames` if the store gets a new id."""
        if self.alone:
            for statement in (MAKE_IDENTITY, MAKE_FENCE, MAKE_BOUNDS, FORGET, *([RENAME] if renames else [])):
                connection.execute(statement)

    def _release_leases(self, connection: sqlite3.Connection) -> None:
        """Release the leases of an earlier process, so that its requests need not wait until they end by themselves.

        In a statement of its own: damage in `receipts` makes a transaction fail, and must not prevent the start.
        """
        try:
            connection.execute(LET_GO)
        except sqlite3.DatabaseError as error:
            _log.error("receipts cannot be read, their leases end by themselves", file=str(self.path), error=str(error))
