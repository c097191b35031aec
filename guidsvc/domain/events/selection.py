"""The filter of a feed of events, in terms that a store can search by."""

from dataclasses import dataclass

from guidsvc.domain.events.entry import Entry, Kind


@dataclass(frozen=True)
class EventSelection:
    """A filter of entries. The default matches all."""

    owner: str | None = None
    """Match this owner only; None matches all owners."""
    kinds: frozenset[Kind] | None = None
    """Match these kinds only; None matches all kinds."""
    guid_prefix: str = ""
    """Match GUIDs that begin so: 0 to 32 upper-case hexadecimal characters."""
    user: str | None = None
    """Match records whose user this is, or was before the change."""

    @property
    def is_owner_only(self) -> bool:
        """Whether an owner is all that it filters by."""
        return bool(self.owner) and self == EventSelection(owner=self.owner)

    def matches(self, entry: Entry) -> bool:
        """Whether an entry matches the filter."""
        return (
            (self.owner is None or entry.owner == self.owner)
            and (self.kinds is None or entry.kind in self.kinds)
            and entry.guid.startswith(self.guid_prefix)
            and (self.user is None or self.user in {entry.user, entry.former_user})
        )
