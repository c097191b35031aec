"""Schemas of renewals, and of the limits of lives."""

from typing import Annotated, Any

from pydantic import Field, create_model

from guidsvc.api.contract.schemas.fields import Digits, Schema, closed, optional
from guidsvc.domain.commands import RenewCommand
from guidsvc.domain.record import EXAMPLE_GUID, GUID_PATTERN

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


class Renewal(Schema):
    """The result of a renewal."""

    model_config = closed(_RENEWAL)

    guid: Annotated[str, Field(pattern=GUID_PATTERN)]
    expire: Annotated[Digits, Field(description="The expiry, in Unix seconds.")]
    renewed: Annotated[bool, Field(description="Whether the expiry was moved.")]
    granted: Annotated[Digits, Field(description="The whole seconds from now to the expiry.")]
    capped: Annotated[bool, Field(description="Whether a limit grants less than requested.")]
    max_expire: Annotated[Digits | None, Field(description="The latest expiry that a write may set; null without one.")]
    renew_at: Annotated[Digits | None, Field(description="When to renew again, in Unix seconds.")]


class KeyLimits(Schema):
    """The limits of an API key. Absent if it has none of its own."""

    max_ttl: Digits = optional("The longest life that it may give a GUID, in seconds from now.")
    max_life: Digits = optional("The same, from the creation of the GUID.")
