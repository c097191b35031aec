"""The command that renews a lease: the body of a renewal."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from guidsvc.domain.commands.fields import forget_default, optional_field
from guidsvc.domain.commands.seconds import OptionalSeconds


class RenewCommand(BaseModel):
    """The body of a renewal."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "description": "The lifetime to grant, and the conditions of the renewal.",
            "examples": [{"ttl": 60, "if_below": 30}, {"ttl": 600, "at_least": 300}, {"revive": True}, {}],
        },
    )

    ttl: OptionalSeconds = optional_field(
        "The minimum lifetime of the GUID in seconds from now; if absent, the default lifetime."
    )
    if_below: OptionalSeconds = optional_field(
        "Renew only if fewer seconds are left. Otherwise nothing changes, and `renewed` is false."
    )
    at_least: OptionalSeconds = optional_field(
        "The minimum lifetime in seconds, even if that is more than `ttl`. If a limit grants fewer: 409."
    )
    revive: Annotated[bool, Field(strict=True)] = Field(
        default=False,
        description="Renew the GUID even if it has expired. Otherwise that is 410.",
        json_schema_extra=forget_default,
    )
