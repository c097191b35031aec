"""Commands: models that validate request bodies.

A body is validated with the GUID of the path, or None, as `guid` in the context.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from guidsvc.domain.commands.fields import forget_default, optional_field, refuse_null
from guidsvc.domain.commands.merge_patch import UnfitPatch, render_patch
from guidsvc.domain.commands.renewal import RenewCommand
from guidsvc.domain.commands.seconds import OptionalSeconds, exclude_expire, require_ttl
from guidsvc.domain.record import (
    EXAMPLE,
    EXAMPLE_GUID,
    GUID_PATTERN,
    METADATA,
    Expire,
    User,
    parse_guid,
    render_metadata,
    validation_error,
)
from guidsvc.errors import InvalidGuid

MAX_OPERATIONS = 1000
"""Maximum number of operations in one JSON document."""
MEMBERS = frozenset({"expire", "user", "metadata"})
"""The members of a record that clients set."""
_RENEWAL_MEMBERS = frozenset(RenewCommand.model_fields)
_OPERATION_MEMBERS = {
    "put": MEMBERS | {"ttl", "spread", "revive"},
    "get": frozenset({"valid_for"}),
    "delete": frozenset[str](),
    "renew": _RENEWAL_MEMBERS,
}
"""The members that each operation of a batch accepts, besides the GUID and the preconditions."""
_ALL_MEMBERS = frozenset[str]().union(*_OPERATION_MEMBERS.values())
SERVICE_MEMBERS = frozenset({"created", "updated", "version", "purge_at", "renew_at", "max_expire", "state", "owner"})
"""The members that the service sets. `view=full` shows them; bodies must not contain them."""


class _Members(BaseModel):
    """The members of every body. Validate it with the GUID of the path, or None, as `guid` in the context."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    read_only: ClassVar[frozenset[str]] = SERVICE_MEMBERS

    expire: Annotated[Expire | None, BeforeValidator(refuse_null)] = optional_field(
        "The expiry in Unix seconds: an integer or a string of digits."
    )
    user: Annotated[User | None, BeforeValidator(refuse_null)] = optional_field("The user of the record.")
    guid: Annotated[
        str | None, BeforeValidator(refuse_null), WithJsonSchema({"type": "string", "pattern": GUID_PATTERN})
    ] = optional_field("Must equal the GUID in the path; accepted so that you can send back a record that you read.")

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


class WriteCommand(_Members):
    """The members that a creation and a PUT set."""

    metadata: Annotated[
        bytes | None, BeforeValidator(render_metadata), BeforeValidator(refuse_null), WithJsonSchema(METADATA)
    ] = optional_field("Replaces the metadata; `{}` removes it. At most 16 KiB of compact JSON, 8 levels deep.")
    ttl: Annotated[OptionalSeconds, WrapValidator(exclude_expire)] = optional_field(
        "Instead of `expire`: the minimum lifetime of the GUID in seconds from now."
    )
    spread: Annotated[OptionalSeconds, AfterValidator(require_ttl)] = optional_field(
        "Adds up to this many seconds to `ttl`, at random."
    )


class PutCommand(WriteCommand):
    """The body of a PUT to a GUID. Only the members in `model_fields_set` are changed."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "The members to change, or to create the record with. Other members stay as they are.",
            "examples": [EXAMPLE, {"expire": 4102531200}, {"guid": EXAMPLE_GUID} | EXAMPLE, {"metadata": {}}],
        }
    )

    revive: Annotated[bool | None, Field(strict=True), BeforeValidator(refuse_null)] = optional_field(
        "With `false`, an expired record is not changed, and the response is 410."
    )


_PATCH_SCHEMA: dict[str, Any] = {"anyOf": [{"additionalProperties": True, "type": "object"}, {"type": "null"}]}


_PATCHED_TTL = " of a PATCH; send `expire`, in Unix seconds, or use PUT, or POST to /guid/{guid}/renewal"
_PATCHED_REVIVE = " of a PATCH; remove it: a PATCH revives an expired record only with a future `expire`"


class PatchCommand(_Members):
    """The body of a PATCH: a JSON merge patch (RFC 7396). `metadata` is a patch too, or None to remove all of it."""

    advice: ClassVar[Mapping[str, str]] = {"ttl": _PATCHED_TTL, "spread": _PATCHED_TTL, "revive": _PATCHED_REVIVE}
    """Hints after the message that a name is unknown, for names that other bodies have."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "A JSON merge patch (RFC 7396) of a record.",
            "examples": [{"metadata": {"colour": None, "shape": "round"}}, {"metadata": None}, {"user": "Another"}],
        }
    )

    metadata: Annotated[bytes | UnfitPatch | None, PlainValidator(render_patch), WithJsonSchema(_PATCH_SCHEMA)] = Field(
        default=None,
        description="A merge patch of the metadata; null removes all of it.",
        json_schema_extra=forget_default,
    )

    @property
    def merged_bytes(self) -> int:
        """The size of the patch that is merged into the metadata of the record, in bytes; 0 if there is none."""
        return len(self.metadata) if isinstance(self.metadata, bytes) else 0


class CreateCommand(WriteCommand):
    """The body of a request to create a record under a generated GUID. The user is required."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "The members of the new record.",
            "examples": [{"user": EXAMPLE["user"]}, EXAMPLE, {"user": "worker 7", "ttl": 60}],
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
            "description": "A put by default. The others require `guid`. A get or a delete accepts no members of a "
            "record, a renew those of a renewal.",
            "examples": [
                {"op": "put", "guid": EXAMPLE_GUID, "if_none_match": "*"} | EXAMPLE,
                {"op": "get", "guid": EXAMPLE_GUID},
                {"op": "delete", "guid": EXAMPLE_GUID, "if_match": '"1795420608123"'},
                {"op": "renew", "guid": EXAMPLE_GUID, "ttl": 60, "if_below": 30},
                {"user": EXAMPLE["user"]},
            ],
        }
    )

    # Without its default in the document, by which generators would take it for a required member.
    op: Literal["put", "get", "delete", "renew"] = Field(
        "put", description="The kind of operation; `put` if it is absent.", json_schema_extra=forget_default
    )
    guid: Annotated[
        str | None, BeforeValidator(refuse_null), WithJsonSchema({"type": "string", "pattern": GUID_PATTERN})
    ] = optional_field("The GUID. For a put without one, the service generates it.")
    if_below: OptionalSeconds = optional_field("As in a renewal.")
    at_least: OptionalSeconds = optional_field("As in a renewal.")
    revive: Annotated[bool | None, Field(strict=True), BeforeValidator(refuse_null)] = optional_field(
        "As in a PUT or a renewal."
    )
    valid_for: OptionalSeconds = optional_field("For a get: as the query parameter.")
    if_match: Annotated[str | None, Field(strict=True), BeforeValidator(refuse_null)] = optional_field(
        "A precondition like the header `If-Match`."
    )
    if_none_match: Annotated[str | None, Field(strict=True), BeforeValidator(refuse_null)] = optional_field(
        "A precondition like the header `If-None-Match`."
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
        """Require a GUID for all but a put, and reject members that the operation does not accept."""
        if self.guid is None and self.op != "put":
            raise validation_error("guid_missing", "`{op}` requires `guid`", op=self.op)
        surplus = sorted(self.model_fields_set & _ALL_MEMBERS - _OPERATION_MEMBERS[self.op])
        if surplus:
            names = ", ".join(f"`{name}`" for name in surplus)
            raise validation_error("surplus", "`{op}` takes no {names}", op=self.op, names=names)
        if self.guid is None and self.revive is not None:
            raise validation_error("surplus", "`put` without `guid` takes no `revive`")
        return self

    @property
    def renewal(self) -> RenewCommand:
        """The renewal that this operation requests."""
        members = {name: getattr(self, name) for name in _RENEWAL_MEMBERS}
        return RenewCommand.model_construct(**members | {"revive": self.revive is True})
