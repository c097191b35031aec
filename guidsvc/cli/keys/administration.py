"""The administration of API keys by the commands of `keys`, in a store or in a service over HTTP."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from guidsvc.domain.api_key import KeyFilter
from guidsvc.domain.leases.limits import LifeLimits

Document = Mapping[str, Any]
"""A key without its secret, with the members that the service sends."""


class NewKey(NamedTuple):
    """The members of a key to be created; `expire` is in Unix seconds, or None for never."""

    owner: str
    scopes: frozenset[str]
    expire: int | None
    note: str | None
    limits: LifeLimits


class KeyWithSecret(NamedTuple):
    """A key and its text, of which no other copy exists."""

    document: Document
    text: str


class KeyAdministration(Protocol):
    """The administration of keys. Each method reports errors with the exit code of its place."""

    flags: Sequence[str]
    """The flags that lead to the same place."""

    def create(self, key: NewKey) -> KeyWithSecret:
        """Create a key."""

    def list(self, wanted: KeyFilter) -> Iterable[Document]:
        """Return the matching keys, ordered by id."""

    def get(self, key_id: str) -> Document:
        """Return a key."""

    def set_note(self, key_id: str, note: str | None) -> Document:
        """Set the note of a key, or remove it; return the key."""

    def revoke(self, key_id: str) -> Document:
        """Revoke a key, and return it."""

    def rotate(self, key_id: str, overlap: int) -> KeyWithSecret:
        """Give a key a new secret. The current one stays valid for `overlap` seconds."""
