"""The fields of commands and queries, and how they are validated and described in the API."""

from typing import Any

from pydantic import Field

from guidsvc.domain.record import validation_error


def refuse_null(value: object) -> object:
    """Reject null, which some clients send to omit a member."""
    if value is None:
        raise validation_error("null", "must not be null; leave the member out instead")
    return value


def optional_field(description: str) -> Any:
    """Make an optional member: None if absent. Clients cannot send None."""
    return Field(default=None, description=description, json_schema_extra=_forget_none)


def forget_default(schema: dict[str, Any]) -> None:
    """Remove the default of a member from its JSON schema."""
    schema.pop("default")


def _forget_none(schema: dict[str, Any]) -> None:
    forget_default(schema)
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    schema.update(kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
