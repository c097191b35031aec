"""Models that validate the bodies and queries of requests about API keys."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from guidsvc.domain.api_key import (
    KEY_ID_PATTERN,
    MAX_NOTE_CHARACTERS,
    MAX_OVERLAP_SECONDS,
    OVERLAP_SECONDS,
    KeyFilter,
    KeyState,
    Note,
    SearchText,
)
from guidsvc.domain.caller import Scope
from guidsvc.domain.commands import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    Limit,
    NoQuery,
    optional_field,
    refuse_null,
)
from guidsvc.domain.commands.fields import forget_default
from guidsvc.domain.commands.seconds import OptionalSeconds
from guidsvc.domain.leases.limits import LifeLimits
from guidsvc.domain.record import EXAMPLE, Expire, User, validation_error

MAX_SCOPES = 16
"""Maximum number of scopes in a request, with repetitions. Each invalid one has a separate error."""


def _parse_cursor(value: str) -> str:
    """Return the id after which the list continues. A cursor of keys is that id itself."""
    if not re.fullmatch(KEY_ID_PATTERN, value):
        raise validation_error("cursor_form", "is not valid; send `next` of the previous response unchanged")
    return value


_Cursor = Annotated[str, BeforeValidator(_parse_cursor), WithJsonSchema({"type": "string", "pattern": KEY_ID_PATTERN})]


def _no_default(schema: dict[str, Any]) -> None:
    schema.pop("default")


class KeysQuery(NoQuery):
    """The query of a list of keys: filters, where it starts, and the page size."""

    owner: User | None = optional_field("Only keys of exactly this owner.")
    q: SearchText | None = optional_field(
        "Only keys whose note contains this text, in upper or lower case, or whose id begins with it."
    )
    state: KeyState | None = optional_field("Only keys in this state.")

    limit: Limit | None = optional_field(
        f"The number of keys on a page: {DEFAULT_PAGE_SIZE} by default, at most {MAX_PAGE_SIZE}. A page ends early "
        "when 10,000 keys have been searched."
    )
    cursor: _Cursor | None = optional_field(
        "Where to continue: `next` of the previous page, unchanged. A cursor is opaque and never expires."
    )

    @property
    def page_size(self) -> int:
        """The number of keys on a page."""
        return min(self.limit or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)

    @property
    def wanted(self) -> KeyFilter:
        """The filter of the list."""
        return KeyFilter(self.owner, self.state, self.q)


class KeyCreation(BaseModel):
    """The body of a request to create a key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "description": "The owner, scopes and expiry of the new key.",
            "examples": [
                {"owner": EXAMPLE["user"], "scopes": ["read", "write"]},
                {"owner": "operations", "scopes": ["admin"], "expire": EXAMPLE["expire"], "note": "laptop of Ann"},
            ],
        },
    )

    owner: User = Field(description="The owner whose records the key can access.")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=MAX_SCOPES)] = Field(
        description="What the key may do: `read`, `write` and `delete` these records, or `monitor`: read `/metrics`, "
        "`/stats` and no records. `admin` includes all other scopes, for the records of all owners, and manages keys."
    )
    expire: Annotated[Expire | None, BeforeValidator(refuse_null)] = optional_field(
        "The expiry, in Unix seconds. Without it, the key does not expire."
    )
    note: Annotated[Note | None, BeforeValidator(refuse_null)] = optional_field(
        f"What the key is for, in 1 to {MAX_NOTE_CHARACTERS} characters, without control characters."
    )
    max_ttl: OptionalSeconds = optional_field("The longest life that its writes may give a GUID, in seconds from now.")
    max_life: OptionalSeconds = optional_field("The same, in seconds from the creation of the GUID.")

    @property
    def limits(self) -> LifeLimits:
        """The limits of the life that the writes of the key give."""
        return LifeLimits(self.max_ttl or 0, self.max_life or 0)


class KeyPatch(BaseModel):
    """The body of a request to change a key: a JSON merge patch (RFC 7396)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "description": "A JSON merge patch (RFC 7396) of a key.",
            "examples": [{"note": "laptop of Ann"}, {"note": None}, {}],
        },
    )

    note: Note | None = Field(default=None, description="The new note; null removes it.", json_schema_extra=_no_default)


class Rotation(BaseModel):
    """The body of a request to rotate a key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "description": "How to rotate the key.",
            "examples": [{"overlap": 86_400}, {"overlap": 0}, {}],
        },
    )

    overlap: Annotated[int, Field(strict=True, ge=0, le=MAX_OVERLAP_SECONDS)] = Field(
        OVERLAP_SECONDS,
        description=f"How long the previous secret stays valid, in seconds: {OVERLAP_SECONDS} by default. Use 0 if the "
        "secret has leaked.",
        json_schema_extra=forget_default,
    )
