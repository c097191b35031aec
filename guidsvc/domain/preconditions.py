"""Entity tags and the preconditions of a request (If-Match, If-None-Match)."""

from dataclasses import dataclass

from guidsvc.domain.record import Record
from guidsvc.errors import PreconditionFailed, PreconditionRequired


@dataclass(frozen=True)
class Conditions:
    """The preconditions of a request (RFC 9110, 13.1), as sets of opaque tags.

    None means no condition. Otherwise one tag of the set must match; ANY matches every record. An expired record
    that is still retained counts as existing.
    """

    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def hold(self, record: Record | None) -> bool:
        """Whether the record, or None for an absent one, meets both conditions."""
        return self.wants(record) and (self.if_none_match is None or not _matches(self.if_none_match, record))

    def wants(self, record: Record | None) -> bool:
        """Whether the record meets `if_match`, regardless of `if_none_match`."""
        return self.if_match is None or _matches(self.if_match, record)

    def __bool__(self) -> bool:
        """Whether the request has any condition."""
        return self != UNCONDITIONAL


ANY = frozenset({'"'})  # no real tag: tags contain no quotes
UNCONDITIONAL = Conditions()


def _matches(tags: frozenset[str], record: Record | None) -> bool:
    return record is not None and (tags == ANY or etag_of(record) in tags)


def etag_of(record: Record) -> str:
    """Return the opaque part of the record's entity tag: its version."""
    return str(record.version)


def check_change(
    guid: str, record: Record | None, conditions: Conditions, *, strict: bool, is_shown: bool = True
) -> None:
    """Raise an error unless a change of the record meets its conditions.

    With `strict`, a change of an existing record without a condition raises PreconditionRequired.
    """
    if record is not None and strict and not conditions:
        raise PreconditionRequired(guid)
    if conditions is not UNCONDITIONAL:
        check_preconditions(guid, record, conditions, is_shown=is_shown)


def check_preconditions(guid: str, record: Record | None, conditions: Conditions, *, is_shown: bool = True) -> None:
    """Raise PreconditionFailed unless the conditions hold. The error includes the record if `is_shown`."""
    if conditions.hold(record):
        return
    if record is None:
        raise PreconditionFailed(guid, None, None)
    wire = record.json_body if is_shown else None
    raise PreconditionFailed(guid, record.version, wire, is_excluded=conditions.wants(record))
