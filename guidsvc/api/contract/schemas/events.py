"""Schemas of events."""

from typing import Annotated, Any, Literal

from pydantic import Field

from guidsvc.api.contract.schemas.fields import Digits, Schema, closed, optional
from guidsvc.api.contract.schemas.records import EXAMPLE_RECORD, GuidRecord
from guidsvc.domain.record import EXAMPLE_GUID, GUID_PATTERN

_CURSOR = "AmJkFzcAAAAAAAAAKhei"
_EVENT: dict[str, Any] = {
    "cursor": _CURSOR,
    "id": f"{EXAMPLE_GUID}-1795420608123",
    "type": "guid.created",
    "at": "1795420608123",
    "guid": EXAMPLE_GUID,
    "version": "1795420608123",
    "by": "key:Rk2JtXq8mZ4w",
    "request_id": "2f1c4d6e8a0b4c5d9e7f1a2b3c4d5e6f",
    "record": EXAMPLE_RECORD,
}


class Event(Schema):
    """An event of a GUID. New types and new members may be added."""

    cursor: Annotated[str, Field(description="The position after the event.")]
    id: Annotated[str, Field(description="The same event always has the same id.")]
    type: Annotated[
        str,
        Field(
            description="`guid.created`, `guid.updated`, `guid.renewed`, `guid.deleted`, `guid.expiring`, "
            "`guid.expired` or `guid.purged`."
        ),
    ]
    at: Annotated[Digits, Field(description="When it happened, in Unix milliseconds.")]
    guid: Annotated[str, Field(pattern=GUID_PATTERN)]
    version: Annotated[Digits, Field(description="The version that the change made, or to which this happened.")]
    owner: str = optional("The owner of the record, for admins only.")
    changed: list[Literal["expire", "user", "metadata"]] = optional("The members that changed.")
    by: str = optional("The name of the key or token of the request.")
    request_id: str = optional("The id of the request.")
    left: Digits = optional("Of `guid.expiring`: the seconds until the expiry.")
    warning: Digits = optional("For `guid.expiring`: the seconds before the expiry at which it was due.")
    record: GuidRecord = optional("The record after the change; before it, for `guid.deleted`; none for `guid.purged`.")


class EventPage(Schema):
    """A page of events."""

    model_config = closed({"items": [_EVENT], "next": _CURSOR, "more": False})

    items: list[Event]
    next: Annotated[str, Field(description="The cursor at which to continue; also on an empty page.")]
    more: Annotated[bool, Field(description="Whether more of these events follow, or may. The page may be empty.")]
