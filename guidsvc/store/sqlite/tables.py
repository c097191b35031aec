"""The tables of the SQLite file for compare-and-swap: key, version and statements."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from itertools import compress, repeat
from itertools import count as count_from
from operator import attrgetter, ne
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.bulk.construction import construct
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.receipt import PAGE_BYTES, SMALL_ANSWER_BYTES, Receipt
from guidsvc.domain.record import MetadataCheck, Record

Row = TypeVar("Row", bound=BaseModel)

SMALL_CHARACTERS = 1024
"""Metadata up to this length is decoded to validate it: the parser of SQLite would take longer to call."""


class Change(NamedTuple):
    """A statement that changes one row; none if the row is not as expected, or the time is past `not_after`."""

    statement: str
    values: tuple[object, ...]
    not_after: int | None = None

    def apply(self, connection: sqlite3.Connection) -> bool:
        """Execute the statement inside a transaction; return whether it changed a row."""
        return connection.execute(self.statement, self.values).rowcount == 1


class Table(Generic[Row]):
    """A table of models with a column for each field: one is the key, and one is a version that every change raises.

    Further columns hold `extras`, which are the store's own and no part of the model.
    """

    def __init__(self, name: str, model: type[Row], *, key: str, version: str, extras: tuple[str, ...] = ()) -> None:
        columns = tuple(model.model_fields)
        same = f"{key} = ? AND {version} = ?"
        # All names are constants, never taken from a request.
        self.select = f"SELECT {', '.join(columns)} FROM {name} WHERE {key} = ?"  # noqa: S608  # nosec B608  # our own names
        self.select_many = f"SELECT {', '.join(columns)} FROM {name} WHERE {key} IN (SELECT value FROM json_each(?))"  # noqa: S608  # nosec B608  # our own names
        self._insert, self._insert_with_extras = _insert(name, columns), _insert(name, (*columns, *extras))
        self._name, self._key, self._same = name, key, same
        self._updates: dict[tuple[bool, ...], str] = {}  # by whether each column changes
        self._delete = f"DELETE FROM {name} WHERE {same}"  # noqa: S608  # nosec B608  # our own names
        self._due = f"SELECT {key} FROM {name} WHERE purge_at < ? ORDER BY purge_at LIMIT ?"  # noqa: S608  # nosec B608  # our own names
        self.purge = f"DELETE FROM {name} WHERE {key} IN ({self._due}) RETURNING purge_at"  # noqa: S608  # nosec B608  # our own names
        self.values: Callable[[Row], tuple[object, ...]] = attrgetter(*columns)
        self._identity: Callable[[Row], tuple[object, object]] = attrgetter(key, version)
        self.columns, self.extras = columns, extras
        self._all_columns = (*columns, *extras)
        self.model = model
        # As `model_validate`, without its checks of options that are not used here
        self._validate: Callable[..., Row] = model.__pydantic_validator__.validate_python

    def row(self, values: tuple[object, ...], check: MetadataCheck | None = None) -> Row:
        """Convert the values of a row to a model; raise ValidationError if they are invalid."""
        return self._validate(dict(zip(self.columns, values, strict=True)), context=check)

    def change(self, old: Row | None, new: Row | None, *, not_after: int | None = None) -> Change:
        """Return the statement that replaces `old` with `new`; None for either means absent."""
        if new is None:
            if old is None:
                raise ValueError("a swap of nothing for nothing")
            return Change(self._delete, self._identity(old), not_after)
        if old is None:
            return Change(self._insert, self.values(new), not_after)
        return Change(*self._update(old, self.values(new), self.values(old)), not_after)

    def insertion(self, new: Row, extras: tuple[object, ...]) -> Change:
        """Return the statement that inserts a row with its extras, if its key is absent."""
        return Change(self._insert_with_extras, (*self.values(new), *extras))

    def update(self, old: Row, new: Row, old_extras: tuple[object, ...], extras: tuple[object, ...]) -> Change:
        """Return the statement that replaces `old` and its extras."""
        return Change(*self._update(old, (*self.values(new), *extras), (*self.values(old), *old_extras)))

    def _update(
        self, old: Row, values: tuple[object, ...], old_values: tuple[object, ...]
    ) -> tuple[str, tuple[object, ...]]:
        # Columns that stay the same are not set: SQLite rewrites each index on a column that is set.
        changes = tuple(map(ne, values, old_values))
        return self._update_statement(changes), (*compress(values, changes), *self._identity(old))

    def _update_statement(self, changes: tuple[bool, ...]) -> str:
        """Return the statement that sets the columns that change. Cached, because there are few combinations."""
        statement = self._updates.get(changes)
        if statement is None:
            assigned = ", ".join(f"{column} = ?" for column in compress(self._all_columns, changes))
            nothing = f"{self._key} = {self._key}"
            statement = f"UPDATE {self._name} SET {assigned or nothing} WHERE {self._same}"  # noqa: S608  # nosec B608  # our own names
            self._updates[changes] = statement
        return statement


def _insert(table: str, columns: Sequence[str]) -> str:
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608  # nosec B608  # our own names


RECORDS = Table("records", Record, key="guid", version="version", extras=("due", "stage", "last"))
"""The extras are those of `EventPolicy`, and the number of the newest log entry of the GUID."""
RECEIPTS = Table("receipts", Receipt, key="key", version="attempt")
KEYS = Table("keys", ApiKey, key="id", version="version")
LEDGERS = Table("ledgers", QuotaLedger, key="owner", version="version")
_RECORD_NAMES = set(RECORDS.columns)  # never changed: records are immutable


@cache
def insert_records(count: int) -> str:
    """Return the statement that inserts so many records with their extras, of which those that exist are left out.

    The values of a row are those of `record_values`.
    """
    columns = (*RECORDS.columns, *RECORDS.extras)
    values = ["{?}" if column == "metadata" else "?" for column in columns]
    return insert_many(f"INSERT OR IGNORE INTO records ({', '.join(columns)})", values, count)


def insert_many(insert: str, values: Sequence[str], count: int) -> str:
    """Return the statement that inserts so many rows. Of `values`, "?" is a parameter, and "{?}" one with "" for NULL.

    SQLite keeps a journal for a statement that may abort, which doubles its time. One that inserts several rows must
    say `OR IGNORE`, or `OR FAIL` if the transaction is rolled back then, and must not call functions such as `nullif`.
    """
    numbers = count_from(1)

    def place(value: str) -> str:
        if "?" not in value:
            return value
        parameter = f"?{next(numbers)}"
        return parameter if value == "?" else f"CASE {parameter} WHEN '' THEN NULL ELSE {parameter} END"

    rows = [f"({', '.join(map(place, values))})" for _ in range(count)]
    return f"{insert} VALUES {', '.join(rows)}"


def record_values(record: Record, *extras: object) -> tuple[object, ...]:
    """Return the values of a row for `insert_records`.

    Metadata is "" in place of None: `sqlite3` takes as long for each None as for ten numbers.
    """
    guid, user, expire, metadata, *others = RECORDS.values(record)
    return (guid, user, expire, metadata or "", *others, *extras)


def metadata_check(connection: sqlite3.Connection) -> MetadataCheck:
    """Return a check of large metadata by the JSON parser of SQLite, for the thread that uses the connection.

    It takes an eighth of the time that decoding may take, which creates thousands of objects. It accepts all of RFC
    8259: so also integers of more than 4,300 digits, and more than 8 levels, which no client can have written.
    """
    execute = connection.execute

    def is_valid(text: str) -> bool:
        if len(text) <= SMALL_CHARACTERS or text[0] != "{" or _may_mislead(text):
            return False
        (is_json,) = execute("SELECT json_valid(?)", (text,)).fetchone()
        return bool(is_json)

    return is_valid


def _may_mislead(text: str) -> bool:
    """Whether SQLite may accept the text although it is invalid: it stops at U+0000, and accepts escaped surrogates."""
    if "\0" in text:
        return True
    if "\\u" not in text:
        return False
    escapes = text.replace("\\\\", "")
    return "\\ud" in escapes or "\\uD" in escapes


@cache
def _record_rows() -> Callable[..., list[tuple[Any, ...]]]:
    """Return a validator of rows, by the types of the fields of a record."""
    types = tuple(field.rebuild_annotation() for field in Record.model_fields.values())
    adapter: TypeAdapter[Any] = TypeAdapter(list[tuple[types]], config=ConfigDict(strict=True))  # type: ignore[valid-type]  # made here
    return adapter.validator.validate_python


def records_of(rows: Sequence[tuple[object, ...]], check: MetadataCheck | None = None) -> list[Record]:
    """Convert rows to records like `Table.row`, in a third of the time, without a call for each.

    Raise ValidationError if one is invalid.
    """
    members = [
        {
            "guid": guid,
            "user": user,
            "expire": expire,
            "metadata": metadata,
            "owner": owner,
            "version": version,
            "created": created,
            "updated": updated,
            "purge_at": purge_at,
        }
        for guid, user, expire, metadata, owner, version, created, updated, purge_at in _record_rows()(
            rows, context=check
        )
    ]
    return construct(Record, members, repeat(_RECORD_NAMES))


LIST_KEYS = f"SELECT {', '.join(KEYS.columns)} FROM keys WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  # nosec B608  # our own names

FENCE = "SELECT mode, gen, boot FROM fence"
SWAP_FENCE = "UPDATE fence SET mode = ?, gen = ?, boot = ? WHERE mode = ? AND gen = ? AND boot = ?"

COUNT_BY_EXPIRE = """
    WITH ranges(number, low, high) AS MATERIALIZED (
        SELECT key, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:ranges)
    )
    SELECT (
        SELECT count(*) FROM records INDEXED BY records_expire
        WHERE expire >= low AND expire < high AND purge_at > :kept_at
    ) FROM ranges ORDER BY number
"""
"""Counts the records in each range of the expiry, all from one snapshot, and with one pass over the index.

The ranges are materialized, or their JSON would be parsed for each record, which takes seven times as long.
"""

AFTER_HEX = "g"
"""Sorts after every hexadecimal digit."""
RECEIPT_USAGE = f"""
    SELECT count(*), ifnull(sum(CASE
        WHEN size <= {SMALL_ANSWER_BYTES} THEN size
        ELSE (size + {PAGE_BYTES} - 1) / {PAGE_BYTES} * {PAGE_BYTES}
    END), 0)
    FROM (SELECT length(CAST(answer AS BLOB)) AS size FROM receipts WHERE key >= ? AND key < ?)
"""  # noqa: S608  # nosec B608  # our own numbers
