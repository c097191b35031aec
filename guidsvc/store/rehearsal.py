"""A store in which changes are rehearsed: it reads what another holds, and keeps what is written to itself.

What is written goes into a temporary database of SQLite, which has no name, spills to disk where it grows large,
and is gone when it is closed; so a rehearsal may be of any length.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from guidsvc.errors import StoreUnavailable
from guidsvc.models import Record
from guidsvc.store import FAR, Far, Store
from guidsvc.store.around import Around

_SCHEMA = """
    PRAGMA journal_mode = OFF;
    CREATE TABLE rehearsed (guid TEXT PRIMARY KEY, record TEXT) WITHOUT ROWID;
"""


@contextmanager
def rehearsal(store: Store) -> Iterator["Rehearsal"]:
    """Rehearse on a store, inside. It is never written to."""
    with closing(sqlite3.connect("", isolation_level=None)) as written:
        written.executescript(_SCHEMA)
        yield Rehearsal(store, written)


class Rehearsal(Around[Store]):
    """The store as it would be. Of each GUID one swap at a time, which its one service sees to."""

    def __init__(self, store: Store, written: sqlite3.Connection) -> None:
        super().__init__(store)
        self._written = written

    async def get(self, guid: str) -> Record | None:
        rows = self._execute("SELECT record FROM rehearsed WHERE guid = ?", guid)
        if not rows:
            return await self._store.get(guid)
        ((text,),) = rows
        return None if text is None else Record.model_validate_json(str(text))

    latest = get

    def peek(self, guid: str) -> Record | Far | None:  # noqa: ARG002  # who rehearses is in no hurry
        return FAR

    async def swap(
        self,
        old: Record | None,
        new: Record | None,
        *,
        not_after: int | None = None,  # noqa: ARG002  # no lease covers a rehearsal
    ) -> bool:
        guid = (old or new).guid  # type: ignore[union-attr]  # the contract: one of them is a record
        stored = await self.get(guid)
        if (stored and stored.version) != (old and old.version):
            return False
        self._execute("REPLACE INTO rehearsed VALUES (?, ?)", guid, new and new.model_dump_json())
        return True

    def _execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._written.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the rehearsal: {error}") from error
