"""Commands and queries: models that validate request bodies and query strings.

A body is validated with the GUID of the path, or None, as `guid` in the context. This module knows no HTTP:
`guidsvc.api` parses bytes and query strings into these models.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from guidsvc.domain.record import (
    EXAMPLE,
    EXAMPLE_GUID,
    GUID_CHARACTERS,
    GUID_PATTERN,
    MAX_TIME,
    MAX_USER_CHARACTERS,
    METADATA,
    TIME_PATTERN,
    Time,
    User,
    parse_guid,
    render_metadata,
    validation_error,
)
from guidsvc.errors import InvalidGuid

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 500
"""Records on a page of a list: default and maximum."""

MAX_OPERATIONS = 1000
"""Maximum number of operations in one JSON document."""
MEMBERS = frozenset({"expire", "user", "metadata"})
"""The members of a record that clients set."""
SERVICE_MEMBERS = frozenset({"created", "updated", "version", "purge_at", "state", "owner"})
"""The members that the service sets. `view=full` shows them; bodies must not contain them."""

_DIGITS = re.compile(r"[0-9]+")
_CURSOR_PATTERN = "^A[Q-Za-f][A-Za-z0-9_-]{20}[AEIMQUYcgkosw048]$"  # 17 bytes in Base64, the first of which is:
_CURSOR_FORM = b"\x01"  # version of the cursor format


def _parse_expire(value: object) -> int:
    """Parse an expiry: a string of ASCII digits or an integer. `Time` checks the range."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        # Leading zeros have no meaning. 13 digits are out of range already, and int() is slow on long strings.
        return int(value.lstrip("0")[:13] or "0")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise validation_error("expire_type", "must be Unix time in seconds, as a string of digits or an integer")


def refuse_null(value: object) -> object:
    """Reject null, which some clients send to omit a member."""
    if value is None:
        raise validation_error("null", "must not be null; leave the member out instead")
    return value


def optional_field(description: str) -> Any:
    """Make an optional member: None if absent. Clients cannot send None."""
    return Field(default=None, description=description, json_schema_extra=_forget_none)


def _forget_default(schema: dict[str, Any]) -> None:
    schema.pop("default")


def _forget_none(schema: dict[str, Any]) -> None:
    _forget_default(schema)
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    schema.update(kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


_TIME_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": TIME_PATTERN}, {"type": "integer", "minimum": 0, "maximum": MAX_TIME}]
}
Expire = Annotated[Time, BeforeValidator(_parse_expire), WithJsonSchema(_TIME_SCHEMA)]


def _parse_limit(value: str) -> int:
    """Parse a limit: a string of digits. A limit above the maximum is not an error; `ListQuery.page` caps it."""
    if not _DIGITS.fullmatch(value) or not value.strip("0"):
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


class NoQuery(BaseModel):
    """The query of a request that has no parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordQuery(NoQuery):
    """The query of a request that returns records, optionally in full."""

    view: Literal["full"] | None = optional_field(
        "`full` adds `created`, `updated`, `version`, `purge_at` and `state`, and for admins `owner`."
    )


Owner = Annotated[str, Field(max_length=MAX_USER_CHARACTERS)]
Limit = Annotated[int, BeforeValidator(_parse_limit), WithJsonSchema({"type": "integer", "minimum": 1})]
_Cursor = Annotated[str, BeforeValidator(_parse_cursor), WithJsonSchema({"type": "string", "pattern": _CURSOR_PATTERN})]


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
    cursor: _Cursor | None = optional_field(
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


class _Members(BaseModel):
    """The members of every body. Validate it with the GUID of the path, or None, as `guid` in the context."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    read_only: ClassVar[frozenset[str]] = SERVICE_MEMBERS

    expire: Annotated[Expire | None, BeforeValidator(refuse_null)] = optional_field(
        "The expiry, in Unix seconds, as an integer or a string of digits."
    )
    user: Annotated[User | None, BeforeValidator(refuse_null)] = optional_field("The user of the record.")
    guid: Annotated[
        str | None, BeforeValidator(refuse_null), WithJsonSchema({"type": "string", "pattern": GUID_PATTERN})
    ] = optional_field("Must equal the GUID in the path. Accepted so that you can write back what you read.")

    @field_validator("guid")
    @classmethod
    def _same_guid(cls, value: str, info: ValidationInfo) -> str:
        """Accept the GUID of the path, so that a body that was read can be put back; reject any other."""
        expected = (info.context or {}).get("guid")
        if expected is None:
            raise validation_error(
                "guid_unexpected", "must not be sent: the service generates it; to choose one, PUT to /guid/<guid>"
            )
        if value != expected:
            raise validation_error(
                "guid_differs", "must be the GUID in the path, {guid}; a GUID cannot be changed", guid=expected
            )
        return value


class PutCommand(_Members):
    """The body of a PUT to a GUID. Only the members in `model_fields_set` are changed."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "The members to change, or to create the record with. Other members stay as they are.",
            "examples": [EXAMPLE, {"expire": 4102531200}, {"guid": EXAMPLE_GUID} | EXAMPLE, {"metadata": {}}],
        }
    )

    metadata: Annotated[
        str | None, BeforeValidator(render_metadata), BeforeValidator(refuse_null), WithJsonSchema(METADATA)
    ] = optional_field("Replaces the metadata; `{}` removes it. At most 16 KiB as compact JSON, at most 8 levels deep.")


_PATCH_SCHEMA: dict[str, Any] = {"anyOf": [{"additionalProperties": True, "type": "object"}, {"type": "null"}]}


def _check_patch(value: object) -> dict[str, Any] | None:
    """Accept an object or null. Its content is validated after the merge."""
    if value is None or isinstance(value, dict):
        return value
    raise validation_error("metadata_type", "must be a JSON object")


class PatchCommand(_Members):
    """The body of a PATCH: a JSON merge patch (RFC 7396). `metadata` is a patch too, or None to remove all of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "A JSON merge patch (RFC 7396) of a record.",
            "examples": [{"metadata": {"colour": None, "shape": "round"}}, {"metadata": None}, {"user": "Another"}],
        }
    )

    metadata: Annotated[dict[str, Any] | None, PlainValidator(_check_patch), WithJsonSchema(_PATCH_SCHEMA)] = Field(
        default=None,
        description="A merge patch of the metadata; null removes all of it.",
        json_schema_extra=_forget_default,
    )


class CreateCommand(PutCommand):
    """The body of a request to create a record under a generated GUID. The user is required."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "The members of the new record.",
            "examples": [{"user": EXAMPLE["user"]}, EXAMPLE],
        }
    )

    user: User = Field(description="The user of the record.")
    guid: SkipJsonSchema[Annotated[str | None, BeforeValidator(refuse_null)]] = None  # rejected, with the reason


class BatchOperation(PutCommand):
    """One operation of a batch: a put by default. A put without a GUID creates a record under a generated one.

    `if_match` and `if_none_match` have the syntax of the headers.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "description": "A put by default. A get or a delete requires `guid` and accepts no members of a record.",
            "examples": [
                {"op": "put", "guid": EXAMPLE_GUID, "if_none_match": "*"} | EXAMPLE,
                {"op": "get", "guid": EXAMPLE_GUID},
                {"op": "delete", "guid": EXAMPLE_GUID, "if_match": '"1795420608123"'},
                {"user": EXAMPLE["user"]},
            ],
        }
    )

    op: Literal["put", "get", "delete"] = Field("put", description="The kind of operation.")
    guid: Annotated[
        str | None, BeforeValidator(refuse_null), WithJsonSchema({"type": "string", "pattern": GUID_PATTERN})
    ] = optional_field("The GUID. For a put without one, the service generates it.")
    if_match: Annotated[str | None, Field(strict=True), BeforeValidator(refuse_null)] = optional_field(
        "A precondition with the syntax of the header `If-Match`."
    )
    if_none_match: Annotated[str | None, Field(strict=True), BeforeValidator(refuse_null)] = optional_field(
        "A precondition with the syntax of the header `If-None-Match`."
    )

    @field_validator("guid")
    @classmethod
    def _same_guid(cls, value: str, info: ValidationInfo) -> str:  # noqa: ARG003  # signature of the base class
        """Validate the GUID like one in a path."""
        try:
            return parse_guid(value)
        except InvalidGuid as error:
            raise validation_error("guid_form", "{reason}", reason=str(error)) from error

    @model_validator(mode="after")
    def _check_members(self) -> "BatchOperation":
        """Require a GUID, and reject members of a record, for a get or a delete."""
        if self.op != "put":
            surplus = sorted(self.model_fields_set & MEMBERS)
            if self.guid is None:
                raise validation_error("guid_missing", "a {op} requires a guid", op=self.op)
            if surplus:
                raise validation_error("surplus", "a {op} accepts no {names}", op=self.op, names=", ".join(surplus))
        return self
