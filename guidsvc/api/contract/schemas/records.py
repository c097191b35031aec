"""Schemas of records, and of the bodies that write them."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, create_model

from guidsvc.api.contract.schemas.fields import Digits, Schema, closed, optional
from guidsvc.domain.commands import CreateCommand, PatchCommand, PutCommand
from guidsvc.domain.record import EXAMPLE, EXAMPLE_GUID, GUID_PATTERN, METADATA, State

EXAMPLE_RECORD = {"guid": EXAMPLE_GUID} | EXAMPLE
_FULL: dict[str, Any] = {
    "created": "1795420608123",
    "updated": "1795420608123",
    "version": "1795420608123",
    "purge_at": "4103049600",
    "renew_at": "3249629923",
    "max_expire": None,
    "state": "live",
    "owner": "alice",
}


class GuidRecord(Schema):
    """A registered GUID. `metadata` is present if the record has any, the members after it only with `view=full`."""

    model_config = closed(EXAMPLE_RECORD, EXAMPLE_RECORD | {"metadata": {"colour": "blue"}} | _FULL)

    guid: Annotated[str, Field(pattern=GUID_PATTERN)]
    expire: Annotated[Digits, Field(description="The expiry, in Unix seconds.")]
    user: str
    metadata: Annotated[dict[str, Any], WithJsonSchema(METADATA)] = optional("Any JSON object.")
    created: Digits = optional("The time of creation, in Unix milliseconds.")
    updated: Digits = optional("The time of the last change, in Unix milliseconds.")
    version: Digits = optional("Rises with every change. The `ETag` contains it.")
    purge_at: Digits = optional("The end of the retention period, after which the record is purged, in Unix seconds.")
    renew_at: Digits | None = optional("When to renew the GUID, in Unix seconds.")
    max_expire: Digits | None = optional("The latest expiry that a write may set; null without one.")
    state: State = optional("Whether the GUID is valid.")
    owner: str = optional("The owner of the record, for admins only; empty if it was created without access control.")


class Page(Schema):
    """A page of the records that match the query."""

    model_config = closed({"items": [EXAMPLE_RECORD], "next": None, "total": 1})

    items: list[GuidRecord]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last page.")]
    total: int = optional("The number of matching records on all pages, with `Prefer: return=total-count`.")


# The names of the request bodies in the OpenAPI document. Generated clients name their classes after them.
Change = create_model("Change", __base__=PutCommand, __doc__=PutCommand.__doc__)
Patch = create_model("Patch", __base__=PatchCommand, __doc__=PatchCommand.__doc__)
Creation = create_model("Creation", __base__=CreateCommand, __doc__=CreateCommand.__doc__)
