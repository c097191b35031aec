"""Queries: models that validate query strings, and the pages and cursors of lists."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from guidsvc.domain.commands.fields import DIGITS, Expire, optional_field
from guidsvc.domain.record import GUID_CHARACTERS, MAX_USER_CHARACTERS, User, validation_error

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 500
"""Records on a page of a list: default and maximum."""


_CURSOR_PATTERN = "^A[Q-Za-f][A-Za-z0-9_-]{20}[AEIMQUYcgkosw048]$"  # 17 bytes in Base64, the first of which is:
_CURSOR_FORM = b"\x01"  # version of the cursor format


def _parse_limit(value: str) -> int:
    """Parse a limit: a string of digits. A limit above the maximum is not an error; `ListQuery.page` caps it."""
    if not DIGITS.fullmatch(value) or not value.strip("0"):
        raise validation_error("limit_type", "must be a number of records, 1 or more")
    return int(value.lstrip("0")[:13])


def render_cursor(guid: str) -> str:
    """Return the cursor that continues a list after this GUID."""
    return urlsafe_b64encode(_CURSOR_FORM + bytes.fromhex(guid)).decode().rstrip("=")


def _parse_cursor(value: str) -> str:
    """Return the GUID after which the list continues."""
    try:
        guid = urlsafe_b64decode(value + "==")[len(_CURSOR_FORM) :].hex().upper()
    except ValueError:
        guid = ""
    if len(guid) != GUID_CHARACTERS or render_cursor(guid) != value:
        raise validation_error("cursor_form", "is an invalid cursor; use `next` of a previous page unchanged")
    return guid


Owner = Annotated[str, Field(max_length=MAX_USER_CHARACTERS)]
Limit = Annotated[int, BeforeValidator(_parse_limit), WithJsonSchema({"type": "integer", "minimum": 1})]
Cursor = Annotated[str, BeforeValidator(_parse_cursor), WithJsonSchema({"type": "string", "pattern": _CURSOR_PATTERN})]


class NoQuery(BaseModel):
    """The query of a request that has no parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordQuery(NoQuery):
    """The query of a request that returns records, optionally in full."""

    view: Literal["full"] | None = optional_field(
        "`full` adds `created`, `updated`, `version`, `purge_at` and `state`, and for admins `owner`."
    )


class ListQuery(RecordQuery):
    """The query of a list: filters, view, start and page size. Times are Unix seconds."""

    user: User | None = optional_field("Only records of exactly this user.")
    owner: Owner | None = optional_field(
        "Only records of this owner, or, if empty, those that were created without access control. For admins only."
    )
    state: Literal["live", "expired", "all"] = Field("live", description="Only records in this state.")
    expires_before: Expire | None = optional_field("Only records that expire before this Unix time, in seconds.")
    expires_after: Expire | None = optional_field("Only records that expire after this Unix time, in seconds.")
    limit: Limit | None = optional_field(
        f"The number of records on a page: {DEFAULT_PAGE_SIZE} by default, at most {MAX_PAGE_SIZE}. A page ends early "
        "when its records reach about 1 MiB. In a stream, the maximum number of lines."
    )
    cursor: Cursor | None = optional_field(
        "Where to continue: `next` of the previous page, unchanged. A cursor is opaque and never expires."
    )

    @property
    def page(self) -> int:
        """The number of records on a page."""
        return min(self.limit or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


class BatchQuery(RecordQuery):
    """The query of a batch: the view of its records, and whether it only validates the operations."""

    validate_only: Literal["true", "false"] = Field(
        "false",
        description="`true` only validates the operations: the results show what would happen, nothing changes.",
    )
