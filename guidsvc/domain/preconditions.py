"""Entity tags and the preconditions of a request (If-Match, If-None-Match)."""

from dataclasses import dataclass

from guidsvc.domain.record import Record
from guidsvc.errors import PreconditionFailed


@dataclass(frozen=True)
class Conditions:
    """Which versions of a record a request demands (RFC 9110, 13.1), as the opaque part of its entity tags.

    None is no demand; a set of tags, of which one must match; or ANY, which every record matches. An expired
    record that is still kept counts as existing.
    """

    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def hold(self, record: Record | None) -> bool:
        """Whether the record, or None where there is none, is as it is demanded."""
        return self.wants(record) and (self.if_none_match is None or not _matches(self.if_none_match, record))

    def wants(self, record: Record | None) -> bool:
        """Whether the record is one that `if_match` demands, whatever `if_none_match` says."""
        return self.if_match is None or _matches(self.if_match, record)

    def __bool__(self) -> bool:
        """Whether anything is demanded."""
        return self != UNCONDITIONAL


ANY = frozenset({'"'})  # which no tag can be: a tag holds no quotes
UNCONDITIONAL = Conditions()


def _matches(tags: frozenset[str], record: Record | None) -> bool:
    return record is not None and (tags == ANY or etag_of(record) in tags)


def etag_of(record: Record) -> str:
    """Return the opaque part of the record's entity tag: its version."""
    return str(record.version)


def check_preconditions(guid: str, record: Record | None, conditions: Conditions, *, is_shown: bool = True) -> None:
    """Raise PreconditionFailed unless the record is as the conditions demand; with the record if it `is_shown`."""
    if conditions.hold(record):
        return
    if record is None:
        raise PreconditionFailed(guid, None, None)
    raise PreconditionFailed(guid, record.version, record.json_body if is_shown else None)
