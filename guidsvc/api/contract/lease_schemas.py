"""Schemas of renewals, for the OpenAPI document."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from guidsvc.domain.commands import RenewCommand
from guidsvc.domain.record import EXAMPLE_GUID, GUID_PATTERN

_Digits = Annotated[str, Field(pattern="^[0-9]+$")]

RenewalRequest = create_model("RenewalRequest", __base__=RenewCommand, __doc__=RenewCommand.__doc__)
"""The body of a renewal, under the name that it has in the OpenAPI document."""

_RENEWAL: dict[str, Any] = {
    "guid": EXAMPLE_GUID,
    "expire": "1795420668",
    "renewed": True,
    "granted": "60",
    "capped": False,
    "max_expire": None,
    "renew_at": "1795420645",
}


class Renewal(BaseModel):
    """The result of a renewal."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_RENEWAL]})

    guid: Annotated[str, Field(pattern=GUID_PATTERN)]
    expire: Annotated[_Digits, Field(description="The expiry, in Unix seconds.")]
    renewed: Annotated[bool, Field(description="Whether the expiry was moved.")]
    granted: Annotated[_Digits, Field(description="The whole seconds from now to the expiry.")]
    capped: Annotated[bool, Field(description="Whether a limit grants less than was asked for.")]
    max_expire: Annotated[_Digits | None, Field(description="The latest expiry that a write may set; null if any.")]
    renew_at: Annotated[_Digits | None, Field(description="When to renew again, in Unix seconds.")]
