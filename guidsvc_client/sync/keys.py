"""The API keys of the sync client."""

from collections.abc import Iterable, Iterator
from typing import Unpack

from guidsvc_client.key_models import IssuedKey, Key
from guidsvc_client.protocol import key_calls
from guidsvc_client.protocol.key_calls import KeyFilter, KeyLimits
from guidsvc_client.protocol.values import Duration
from guidsvc_client.protocol.workflows import PageTurner
from guidsvc_client.sync.session import Session


class Keys:
    """API keys, for admins."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, owner: str, scopes: Iterable[str], **limits: Unpack[KeyLimits]) -> IssuedKey:
        """Create a key. Only this result has its secret. It is not repeated if its response is lost."""
        return self._session.send(key_calls.create(owner, scopes, limits))

    def get(self, key_id: str) -> Key:
        """Return a key by its id."""
        return self._session.send(key_calls.get(key_id))

    def list(self, **filters: Unpack[KeyFilter]) -> Iterator[Key]:
        """Yield the keys that a filter selects."""
        cursor: str | None = None
        turner = PageTurner("/keys")
        while True:
            page = self._session.send(key_calls.list_page(filters, cursor))
            cursor = turner.turn(cursor, page.next)
            yield from page.items
            if cursor is None:
                return

    def set_note(self, key_id: str, note: str | None) -> Key:
        """Set or remove the note of a key."""
        return self._session.send(key_calls.set_note(key_id, note))

    def rotate(self, key_id: str, overlap: Duration | None = None) -> IssuedKey:
        """Give a key a new secret. The previous one stays valid for `overlap`, an hour by default."""
        return self._session.send(key_calls.rotate(key_id, overlap))

    def revoke(self, key_id: str) -> None:
        """Revoke a key."""
        self._session.send(key_calls.revoke(key_id))
