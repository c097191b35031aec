"""The calls about API keys, for admins."""

from collections.abc import Iterable
from typing import Literal, TypedDict
from urllib.parse import quote

from guidsvc_client.key_models import IssuedKey, Key, KeyPage
from guidsvc_client.models import cursor_of
from guidsvc_client.protocol.call import MERGE_PATCH, Call, Reply, read_nothing, with_json
from guidsvc_client.protocol.values import Duration, Moment, strings_of, wire_members

MAX_PAGE_SIZE = 500


class KeyLimits(TypedDict, total=False):
    """The options of a new key: an expiry, a note, and limits of the lifetime that it may give GUIDs."""

    expire: Moment
    note: str
    max_ttl: Duration
    max_life: Duration


class KeyFilter(TypedDict, total=False):
    """Which keys a list has; `q` searches the notes and the beginning of the ids."""

    owner: str
    state: Literal["live", "revoked", "expired"]
    q: str


def create(owner: str, scopes: Iterable[str], limits: KeyLimits) -> Call[IssuedKey]:
    """Create a key. The service never stores a response with a secret, so the call is not repeated."""
    body = {"owner": owner, "scopes": sorted(strings_of(scopes, "scopes")), **wire_members(limits)}
    return with_json(Call(method="POST", path="/keys", read=_read_secret, is_repeatable=False), body)


def get(key_id: str) -> Call[Key]:
    """Read a key."""
    return Call(method="GET", path=_path(key_id), read=_read_key)


def list_page(filters: KeyFilter, cursor: str | None) -> Call[KeyPage]:
    """Read a page of the list."""

    def read(reply: Reply) -> KeyPage:
        document = reply.json
        return KeyPage([Key.from_wire(each) for each in document["items"]], cursor_of(document))

    query = {name: str(value) for name, value in filters.items()} | {"limit": str(MAX_PAGE_SIZE)}
    return Call(method="GET", path="/keys", read=read, query=query | ({"cursor": cursor} if cursor else {}))


def set_note(key_id: str, note: str | None) -> Call[Key]:
    """Set the note, or remove it."""
    call = Call(method="PATCH", path=_path(key_id), read=_read_key, is_repeatable=False)
    return with_json(call, {"note": note}, MERGE_PATCH)


def rotate(key_id: str, overlap: Duration | None) -> Call[IssuedKey]:
    """Give a key a new secret. A repetition would end the secret that the first attempt made."""
    call = Call(method="POST", path=f"{_path(key_id)}/rotation", read=_read_secret, is_repeatable=False)
    return with_json(call, {} if overlap is None else wire_members({"overlap": overlap}))


def revoke(key_id: str) -> Call[None]:
    """Revoke a key."""
    return Call(method="DELETE", path=_path(key_id), read=read_nothing)


def _path(key_id: str) -> str:
    return f"/keys/{quote(key_id, safe='')}"


def _read_key(reply: Reply) -> Key:
    return Key.from_wire(reply.json)


def _read_secret(reply: Reply) -> IssuedKey:
    return IssuedKey.from_wire(reply.json)
