"""The calls about events of GUIDs."""

from collections.abc import Iterable
from typing import Literal, TypedDict

from guidsvc_client.models import Event, EventPage, text
from guidsvc_client.protocol.call import Call, Reply
from guidsvc_client.protocol.values import Guid, guid_of, strings_of

MAX_PAGE_SIZE = 500
WAIT_SECONDS = 30
"""The seconds that a page waits for its first event: the maximum that the service accepts."""
Start = Literal["oldest", "now"]


class EventFilter(TypedDict, total=False):
    """Which events a feed has. Only admins may name an `owner`. `view="brief"` omits the records."""

    types: Iterable[str]
    guid: Guid
    guid_prefix: str
    user: str
    owner: str
    view: Literal["brief"]


def page(query: dict[str, str], *, start: Start, cursor: str | None, wait_seconds: int) -> Call[EventPage]:
    """Read a page of the feed, after a cursor or else from the start; wait for the first event."""

    def read(reply: Reply) -> EventPage:
        document = reply.json
        items = [Event.from_wire(each) for each in document["items"]]
        return EventPage(items, text(document["next"]), document["more"])

    place = {"from": start} if cursor is None else {"cursor": cursor}
    wait = {"wait": str(wait_seconds)} if wait_seconds else {}
    whole = {**query, **place, **wait, "limit": str(MAX_PAGE_SIZE)}
    return Call(method="GET", path="/events", read=read, query=whole, wait_seconds=wait_seconds)


def query_of(filters: EventFilter) -> dict[str, str]:
    """Return the parameters of a filter."""
    query = {name: str(value) for name, value in filters.items()}
    if "types" in filters:
        del query["types"]
        query["type"] = ",".join(strings_of(filters["types"], "types"))
    if "guid" in filters:
        query["guid"] = guid_of(filters["guid"])
    return query
