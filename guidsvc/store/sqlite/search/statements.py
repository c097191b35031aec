"""The statements of searches of the SQLite file."""

from pydantic_core import to_json

from guidsvc.domain.selection import Selection
from guidsvc.store.sqlite.tables import RECORDS

_WHERE = "guid > :after AND expire >= :expire_from AND expire < :expire_before"
_KEPT = "AND purge_at > :kept_at"
_WITHOUT = "AND guid NOT IN (SELECT value FROM json_each(:without))"
_PAGE, _EXPIRE_PAGE = "ORDER BY guid LIMIT :limit", "ORDER BY expire, guid LIMIT :limit"
_AFTER_EXPIRE = "(expire, guid) > (:after_expire, :after)"
_EXPIRE_RANGE = f"{_AFTER_EXPIRE} AND expire < :expire_before"


def values_of(selection: Selection, after: str) -> dict[str, object]:
    """Return the statement parameters of a selection."""
    return vars(selection) | {"after": after, "without": to_json(sorted(selection.excluding)).decode()}


def end_statement(selection: Selection) -> str:
    """Return the statement that finds the last key of the `near` scan."""
    where = f"{_owner_condition(selection)}guid > :after"
    return f"SELECT guid FROM records {_by_key(selection)} WHERE {where} ORDER BY guid LIMIT 1 OFFSET :near"  # noqa: S608  # nosec B608  # our own names


def statement(selection: Selection, *, few: bool, end: bool = False) -> str:
    """Return the statement that finds a page, for `few` or many matches of the expiry; `end` bounds it at a key."""
    index = _by_key(selection)
    is_sparse = selection.by_expire and not end and _index(selection) is not None
    if few or is_sparse:  # select the keys, which are in the index, and not the rows, each of which is a look-up
        keys_index = _by_expire(selection) if few else index
        keys = f"SELECT guid FROM records {keys_index} WHERE {_condition(selection)} {_PAGE}"  # noqa: S608  # nosec B608  # our own names
        return f"SELECT {', '.join(RECORDS.columns)} FROM records WHERE guid IN ({keys}) ORDER BY guid"  # noqa: S608  # nosec B608  # our own names
    where = f"{_condition(selection)} AND guid <= :end" if end else _condition(selection)
    return f"SELECT {', '.join(RECORDS.columns)} FROM records {index} WHERE {where} {_PAGE}"  # noqa: S608  # nosec B608  # our own names


def probe_statement(selection: Selection) -> str:
    """Return the statement that counts the matches of the expiry, up to `few`."""
    where = f"{_indexed_owner(selection)}expire >= :expire_from AND expire < :expire_before"
    return f"SELECT count(*) FROM (SELECT 1 FROM records {_by_expire(selection)} WHERE {where} LIMIT :few)"  # noqa: S608  # nosec B608  # our own names


def expire_end_statement(selection: Selection) -> str:
    """Return the statement that finds the last expiry and key of the `near` scan in order of expiry."""
    where = f"{_indexed_owner(selection)}{_EXPIRE_RANGE} ORDER BY expire, guid LIMIT 1 OFFSET :near"
    return f"SELECT expire, guid FROM records {_by_expire(selection)} WHERE {where}"  # noqa: S608  # nosec B608  # our own names


def expire_statement(selection: Selection, *, end: bool = False) -> str:
    """Return the statement that reads a page in order of expiry; `end` bounds it at an expiry and key.

    It has one upper bound: of two, SQLite ends the scan of the index at the first, and tests each row for the other.
    """
    entries = f"{_AFTER_EXPIRE} AND (expire, guid) <= (:end_expire, :end)" if end else _EXPIRE_RANGE
    where = f"{_owner_condition(selection)}{entries} {_kept(selection)}"
    return f"SELECT {', '.join(RECORDS.columns)} FROM records {_by_expire(selection)} WHERE {where} {_EXPIRE_PAGE}"  # noqa: S608  # nosec B608  # our own names


def top_statement(selection: Selection) -> str:
    """Return the statement that selects the keys of a page in order of expiry from the index on the owner or user."""
    where = f"{_owner_condition(selection)}{_EXPIRE_RANGE} {_kept(selection)}"
    keys = f"SELECT guid FROM records {_by_key(selection)} WHERE {where} {_EXPIRE_PAGE}"  # noqa: S608  # nosec B608  # our own names
    return f"SELECT {', '.join(RECORDS.columns)} FROM records WHERE guid IN ({keys}) ORDER BY expire, guid"  # noqa: S608  # nosec B608  # our own names


def count_statement(selection: Selection) -> str:
    """Return the statement that counts a selection: from an index alone, except for records without an owner."""
    without_index = "sqlite_autoindex_records_1" if selection.owner == "" else "records_expire"  # the rows, or all keys
    index = _index(selection) or without_index
    return f"SELECT count(*) FROM records INDEXED BY {index} WHERE {_condition(selection)}"  # noqa: S608  # nosec B608  # our own names


def _by_expire(selection: Selection) -> str:
    return "INDEXED BY records_owner_expire" if selection.owner else "INDEXED BY records_expire"


def _by_key(selection: Selection) -> str:
    index = _index(selection)
    return "NOT INDEXED" if index is None else f"INDEXED BY {index}"


def _index(selection: Selection) -> str | None:
    """Return the index with the keys of an owner or a user in order; None means the primary key."""
    named = (["owner"] if selection.owner else []) + ([] if selection.user is None else ["user"])
    return "_".join(["records", *named]) if named else None


def _condition(selection: Selection) -> str:
    return f"{_owner_condition(selection)}{_WHERE} {_kept(selection)}"


def _kept(selection: Selection) -> str:
    return f"{_KEPT} {_WITHOUT}" if selection.excluding else _KEPT


def _owner_condition(selection: Selection) -> str:
    owner = "owner = :owner AND " if selection.owner == "" else _indexed_owner(selection)
    return owner if selection.user is None else f"{owner}user = :user AND "


def _indexed_owner(selection: Selection) -> str:
    """Return the condition on the columns of `_by_expire` before the expiry. SQLite requires that of the index, too."""
    return "owner <> '' AND owner = :owner AND " if selection.owner else ""
