"""API keys as the service returns them. `created` and `used` are in Unix milliseconds, `expire` in Unix seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from guidsvc_client.models import Document, integer, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key without its secret. `max_ttl` and `max_life` are its limits of the life of GUIDs, in seconds."""

    id: str
    owner: str
    scopes: Sequence[str]
    state: str
    created: int | None = None
    used: int | None = None
    expire: int | None = None
    note: str | None = None
    max_ttl: int | None = None
    max_life: int | None = None

    @classmethod
    def from_wire(cls, document: Document) -> Self:
        """Return the key of a response."""
        return cls(**cls.members(document))

    @classmethod
    def members(cls, document: Document) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        numbers = ("created", "used", "expire", "max_ttl", "max_life")
        texts = {name: text(document[name]) for name in ("id", "owner", "state")}
        scopes = {"scopes": [text(each) for each in document["scopes"]]}
        return texts | scopes | {name: integer(document.get(name)) for name in numbers} | {"note": document.get("note")}


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey(Key):
    """A new key, or one with a new secret. `key` is the secret, which is never shown again, nor in the `repr`."""

    key: str

    def __repr__(self) -> str:
        return f"IssuedKey(id={self.id!r}, owner={self.owner!r}, key=...)"

    @classmethod
    def members(cls, document: Document) -> dict[str, Any]:
        return Key.members(document) | {"key": text(document["key"])}


@dataclass(frozen=True, slots=True)
class KeyPage:
    """A page of the list of keys."""

    items: Sequence[Key]
    next: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """The key or token of the client itself, and what is left of its limits.

    `access` is "off" without access control; then only `scopes` is known. `rate` has `limit`, `seconds` and `left`;
    `quota` has `limit` and `live`. What the service does not limit is None.
    """

    access: str
    scopes: Sequence[str]
    id: str | None
    owner: str | None
    expire: int | None
    note: str | None
    rate: Document | None
    quota: Document | None

    @classmethod
    def from_wire(cls, document: Document) -> Self:
        """Return the identity of a response."""
        members = {name: document.get(name) for name in ("id", "owner", "note", "rate", "quota")}
        expire = integer(document.get("expire"))
        scopes = [text(each) for each in document["scopes"]]
        return cls(access=text(document["access"]), scopes=scopes, expire=expire, **members)
