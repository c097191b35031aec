"""Queries: models that validate query strings."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from guidsvc.domain.commands.fields import optional_field
from guidsvc.domain.commands.list_parameters import BOUND_FORMS, Bound, Cursor, Order
from guidsvc.domain.commands.seconds import PositiveSeconds
from guidsvc.domain.record import DIGITS, MAX_USER_CHARACTERS, User, validation_error

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 500
"""Records on a page of a list: default and maximum."""


def _parse_limit(value: str) -> int:
    """Parse a limit: a string of digits. A limit above the maximum is not an error; `ListQuery.page` caps it."""
    if not DIGITS.fullmatch(value) or not value.strip("0"):
        raise validation_error(
            "limit_type",
            "must be a whole number, 1 or more, such as {example}; a page has at most {most}",
            example=DEFAULT_PAGE_SIZE,
            most=MAX_PAGE_SIZE,
        )
    return int(value.lstrip("0")[:13])


Owner = Annotated[str, Field(max_length=MAX_USER_CHARACTERS)]
Limit = Annotated[int, BeforeValidator(_parse_limit), WithJsonSchema({"type": "integer", "minimum": 1})]


class NoQuery(BaseModel):
    """The query of a request that has no parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordQuery(NoQuery):
    """The query of a request that returns records, optionally in full."""

    view: Literal["full"] | None = optional_field(
        "`full` adds `created`, `updated`, `version`, `purge_at`, `renew_at`, `max_expire` and `state`, and for admins "
        "`owner`."
    )


class ReadQuery(RecordQuery):
    """The query of a read of one record."""

    valid_for: PositiveSeconds | None = optional_field(
        "Requires that the GUID stays valid for at least this many seconds. Otherwise 409, `expires-too-soon`."
    )


class ListQuery(RecordQuery):
    """The query of a list: filters, order, view, start and page size."""

    user: User | None = optional_field("Only records of exactly this user.")
    owner: Owner | None = optional_field(
        "Only records of this owner, or, if empty, those that were created without access control. Only admins may "
        "name another owner than their own."
    )
    state: Literal["live", "expired", "all"] = Field("live", description="Only records in this state.")
    expires_before: Bound | None = optional_field(f"Only records that expire before this time: {BOUND_FORMS}.")
    expires_after: Bound | None = optional_field("Only records that expire after this time, in the same forms.")
    sort: Order = Field(
        default="guid",
        description="The order: by GUID, or by expiry, soonest first, and then by GUID. A stream for one owner or user "
        "is always sorted by GUID.",
    )
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
