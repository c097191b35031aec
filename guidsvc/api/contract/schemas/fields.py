"""Common fields of the schemas."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from guidsvc.domain.commands.fields import forget_default

Digits = Annotated[str, Field(pattern="^[0-9]+$")]


class Schema(BaseModel):
    """The base of the schemas. Only the OpenAPI document needs them, so none is compiled when the service starts."""

    model_config = ConfigDict(defer_build=True)


def closed(*examples: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a model without further members, with examples."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(examples)})


def optional(description: str) -> Any:
    """Return the field of an optional member without a default."""
    return Field(default=None, description=description, json_schema_extra=forget_default)
