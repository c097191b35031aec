"""What clients send of API keys: the bodies and the queries of requests about them, as models that judge them."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from guidsvc.domain.api_key import KEY_ID_PATTERN, MOST_OVERLAP, OVERLAP
from guidsvc.domain.caller import Scope
from guidsvc.domain.commands import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    Expire,
    Limit,
    NoQuery,
    optional_field,
    refuse_null,
)
from guidsvc.domain.record import EXAMPLE, User, validation_error


def _parse_cursor(value: str) -> str:
    """Return the id that the list is to continue after, which a cursor of keys is."""
    if not re.fullmatch(KEY_ID_PATTERN, value):
        raise validation_error("cursor_form", "is no cursor of ours: take it from `next` of a page, as it stands")
    return value


_Cursor = Annotated[str, BeforeValidator(_parse_cursor), WithJsonSchema({"type": "string", "pattern": KEY_ID_PATTERN})]


class KeysQuery(NoQuery):
    """The query of a list of keys: from where, and how many."""

    limit: Limit | None = optional_field(
        f"How many keys; a page has {DEFAULT_PAGE_SIZE} unless told otherwise, and at most {MAX_PAGE_SIZE}."
    )
    cursor: _Cursor | None = optional_field(
        "Where to go on: `next` of a page, as it stands. It is good for ever, and opaque."
    )

    @property
    def page(self) -> int:
        """How many keys a page has."""
        return min(self.limit or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


class KeyCreation(BaseModel):
    """The body of a request to create a key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "description": "Of what a key is to be made.",
            "examples": [
                {"owner": EXAMPLE["user"], "scopes": ["read", "write"]},
                {"owner": "operations", "scopes": ["admin"], "expire": EXAMPLE["expire"]},
            ],
        },
    )

    owner: User = Field(description="Whose records it opens.")
    scopes: Annotated[list[Scope], Field(min_length=1)] = Field(
        description="What it may do to them; `admin` is all of that, to the records of all, and to the keys."
    )
    expire: Annotated[Expire | None, BeforeValidator(refuse_null)] = optional_field(
        "Until when it is good: Unix seconds. For ever, if it is left out."
    )


class Rotation(BaseModel):
    """The body of a request to rotate a key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "description": "How the key is to be rotated.",
            "examples": [{"overlap": 86_400}, {"overlap": 0}, {}],
        },
    )

    overlap: Annotated[int, Field(strict=True, ge=0, le=MOST_OVERLAP)] = Field(
        OVERLAP, description="Seconds for which the key as it was is good still; 0 if somebody else has it."
    )
