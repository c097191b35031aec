"""Salvage: copy every readable row of a damaged SQLite file, and report the losses.

A damaged page ends a scan. A damaged key in an inner page ends none, but leads searches by key astray, so that most
rows seem absent. So each table is scanned in the order of its pages. If that shows damage, it is also scanned from its
end, and walked by key. At last, each key in an index that is still missing is looked for.
"""

import sqlite3
from collections.abc import Generator, Iterator
from typing import NamedTuple

from guidsvc.store.sqlite.schema import MAKE_BOUNDS, MAKE_FENCE, MAKE_IDENTITY

Values = tuple[object, ...]


class Table(NamedTuple):
    """A table to salvage: its key, if it has one; and the columns whose higher values mark the newer of two rows."""

    name: str
    items: str
    key: str = ""
    age: tuple[str, ...] = ()


TABLES = (
    Table("identity", "store ids"),
    Table("fence", "cache fences"),
    Table("ledgers", "quotas", "owner", ("version",)),
    Table("keys", "API keys", "id", ("version",)),
    Table("receipts", "receipts", "key", ("claimed", "attempt")),
    Table("log_bounds", "bounds of the event log"),
    Table("log", "events", "seq"),
    Table("records", "records", "guid", ("updated", "version")),
)
"""In the order in which they are copied."""


def copy_readable(source: sqlite3.Connection, target: sqlite3.Connection) -> list[str]:
    """Fill the tables of a new store, inside a transaction, with the readable rows; return what could not be read."""
    losses = [loss for table in TABLES for loss in _TableSalvage(source, target, table).run()]
    removed = _cut_log_at_last_gap(target)
    if removed:
        losses.append(f"events: {removed} before the last damage are left out, because an event log has no gaps")
    for statement in (MAKE_IDENTITY, MAKE_FENCE, MAKE_BOUNDS):  # the single rows that could not be read
        target.execute(statement)
    return losses


class _TableSalvage:
    """The salvage of one table."""

    def __init__(self, source: sqlite3.Connection, target: sqlite3.Connection, table: Table) -> None:
        self._source, self._target, self._table = source, target, table
        self._columns = [str(row[1]) for row in target.execute(f"PRAGMA table_info({table.name})")]
        self._faults = self._disorders = self._invalid = 0
        self._has_whole_index = False

    def run(self) -> Iterator[str]:
        """Copy the readable rows; yield what is lost, or may be."""
        name, key = self._table.name, self._table.key
        if not self._source.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
            return  # an older version has fewer tables
        self._target.execute(f"DELETE FROM {name}")  # noqa: S608  # nosec B608  # a name of this file
        for values in self._scan(""):
            self._save(values)
        if key and (self._faults or self._disorders):
            for values in self._other_ways():
                self._save(values)
        is_damaged = self._faults > 0
        missing = len({key for (key,) in self._indexed_keys() if not self._is_found(key)}) if key else 0
        yield from self._losses(missing, is_damaged=is_damaged)

    def _losses(self, missing: int, *, is_damaged: bool) -> Iterator[str]:
        items = self._table.items
        if self._has_whole_index:
            if missing:
                yield f"{items}: {missing} that are in an index could not be read"
        elif is_damaged or missing:
            yield f"{items}: a part could not be read, and no whole index says how many are lost"
        if self._disorders:
            times = "once" if self._disorders == 1 else f"{self._disorders} times"
            yield f"{items}: keys are out of order ({times}), so single keys may be wrong"
        if self._invalid:
            yield f"{items}: rows that are not valid were left out"

    def _other_ways(self) -> Iterator[Values]:
        yield from self._scan(f"ORDER BY {self._table.key} DESC")
        for order in ("ASC", "DESC"):
            yield from self._walk(order)

    def _scan(self, order: str) -> Iterator[Values]:
        """Yield rows in the order of the pages, until the first damage."""
        key, last = self._key_position(), None
        for values in self._until_damage(f"SELECT * FROM {self._table.name} NOT INDEXED {order}"):  # noqa: S608  # nosec B608  # names of this file
            if not order and key is not None:
                self._disorders += last is not None and not _is_before(last, values[key])
                last = values[key]
            yield values

    def _walk(self, order: str) -> Iterator[Values]:
        """Yield rows in the order of the keys, until the first damage.

        Each row has its own query: `sqlite3` steps to the next row before it returns one, and drops it if that fails.
        """
        name, key = self._table.name, self._table.key
        beyond, last = (">" if order == "ASC" else "<"), None
        while True:
            where = "" if last is None else f"WHERE {key} {beyond} ?"
            statement = f"SELECT {key}, * FROM {name} {where} ORDER BY {key} {order} LIMIT 1"  # noqa: S608  # nosec B608  # names of this file
            row = next(self._until_damage(statement, () if last is None else (last,)), None)
            if row is None or (
                last is not None and not _is_before(*((last, row[0]) if order == "ASC" else (row[0], last)))
            ):
                return  # the end, damage, or a search that was led astray
            yield row[1:]
            last = row[0]

    def _until_damage(self, statement: str, values: Values = ()) -> Generator[Values, None, bool]:
        """Yield rows until the first damage; return whether there was none."""
        try:
            yield from self._source.execute(statement, values)
        except sqlite3.DatabaseError:
            self._faults += 1
            return False
        return True

    def _indexed_keys(self) -> Iterator[Values]:
        """Yield the keys in the indexes, each as often as it occurs, which may lead to rows that no scan reaches."""
        name, key = self._table.name, self._table.key
        for _, index, _, origin, is_partial in list(self._until_damage(f"PRAGMA index_list({name})")):
            if origin == "c":
                where = "WHERE owner <> ''" if is_partial else ""  # which all partial indexes have
                statement = f"SELECT {key} FROM {name} INDEXED BY {index} {where}"  # noqa: S608  # nosec B608  # names of this file
                is_whole = yield from self._until_damage(statement)
                self._has_whole_index |= is_whole and not is_partial

    def _key_position(self) -> int | None:
        return self._columns.index(self._table.key) if self._table.key else None

    def _is_found(self, key: object) -> bool:
        """Return whether the row of a key is saved; look for it by its key if it is not."""
        if not self._is_saved(key):
            statement = f"SELECT * FROM {self._table.name} WHERE {self._table.key} = ?"  # noqa: S608  # nosec B608  # names of this file
            for values in self._until_damage(statement, (key,)):
                self._save(values)
        return self._is_saved(key)

    def _is_saved(self, key: object) -> bool:
        statement = f"SELECT 1 FROM {self._table.name} WHERE {self._table.key} = ?"  # noqa: S608  # nosec B608  # names of this file
        return self._target.execute(statement, (key,)).fetchone() is not None

    def _save(self, values: Values) -> None:
        """Insert a row. Of two rows with one key, which damage can lead to, the newer one stays."""
        columns = self._columns[: len(values)]  # an older file has fewer
        names, places = ", ".join(columns), ", ".join("?" * len(values))
        insert = f"INSERT INTO {self._table.name} ({names}) VALUES ({places}) {self._on_conflict(columns)}"  # noqa: S608  # nosec B608  # names of this file
        try:
            self._target.execute(insert, values)
        except sqlite3.IntegrityError:
            self._invalid += 1

    def _on_conflict(self, columns: list[str]) -> str:
        name, age = self._table.name, self._table.age
        if not age:
            return "ON CONFLICT DO NOTHING"
        values = ", ".join(f"{column} = excluded.{column}" for column in columns)
        new, old = (", ".join(f"{row}.{column}" for column in age) for row in ("excluded", name))
        return " ".join(("ON CONFLICT DO UPDATE SET", values, "WHERE", f"({new}) > ({old})"))


def _is_before(one: object, other: object) -> bool:
    """Whether a key comes before another in the order of SQLite, which is that of Python for keys of one type."""
    return type(one) is type(other) and isinstance(one, str | int) and one < other  # type: ignore[operator]  # of one type


def _cut_log_at_last_gap(target: sqlite3.Connection) -> int:
    """Keep only the entries after the last one that could not be read; return how many were removed."""
    row = target.execute(
        "SELECT seq, total FROM log AS entry WHERE NOT EXISTS (SELECT 1 FROM log WHERE seq = entry.seq - 1) "
        "ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    target.execute("UPDATE log_bounds SET shares = NULL")  # the archive is not copied
    if row is None or row[0] <= 1:
        return 0
    removed = target.execute("DELETE FROM log WHERE seq < ?", (row[0],)).rowcount
    target.execute(
        "UPDATE log_bounds SET floor = ?, floor_checksum = 0, floor_total = ? WHERE floor < ?",
        (row[0] - 1, row[1], row[0] - 1),
    )
    return removed
