"""A small event feed with the contract of `GET /events`: cursors, pages that wait, and trimmed events."""

import asyncio
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.scripted_server import Request, problem, response

_FORM = b"\x02"
_MAX_SCANNED = 4
"""Maximum number of events that a page scans. If none of them matches, the page is empty although more follow."""


@dataclass
class EventFeed:
    """A feed of events that the tests add. Their numbers begin at 1."""

    events: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 7
    """Identifies the store of the log."""
    trimmed: int = 0
    """Number of events that were trimmed."""
    pages: list[int] = field(default_factory=list)
    """Number of events in each page so far."""
    _added: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, kind: str, guid: str, **members: object) -> str:
        """Add an event; return its cursor."""
        version = str(1_795_000_000_000 + len(self.events))
        record = {"guid": guid, "expire": "1795601600", "user": "a"}
        event = {"id": f"{guid}-{version}", "type": kind, "at": version, "guid": guid, "version": version}
        self.events.append(event | {"record": record} | members)
        self._added.set()
        return self.cursor(len(self.events))

    def cursor(self, number: int) -> str:
        """Return the cursor after the event with this number."""
        identity = self.events[number - 1]["id"] if number else ""
        check = sha256(identity.encode()).digest()[:2]
        return urlsafe_b64encode(_FORM + self.epoch.to_bytes(4, "big") + number.to_bytes(8, "big") + check).decode()

    async def answer(self, request: Request) -> bytes:
        """Return the response to a request for a page."""
        url = urlsplit(request.target)
        assert (request.method, url.path) == ("GET", "/events")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        assert query.keys() <= {"cursor", "from", "type", "guid", "limit", "wait", "view"}, query
        assert ("cursor" in query) + ("from" in query) == 1
        place = self._place(query)
        if isinstance(place, bytes):
            return place
        page = self._page(place, query)
        if not page["items"] and not page["more"]:
            self._added.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._added.wait(), min(int(query.get("wait", "0")), 30))
            page = self._page(place, query)
        self.pages.append(len(page["items"]))
        return response(200, json.dumps(page).encode(), Cache_Control="no-store")

    def _place(self, query: dict[str, str]) -> int | bytes:
        """Return the number after which the page begins, or a problem response."""
        if "cursor" not in query:
            return len(self.events) if query["from"] == "now" else self.trimmed
        data = urlsafe_b64decode(query["cursor"])
        number = int.from_bytes(data[5:13], "big")
        if data[1:5] != self.epoch.to_bytes(4, "big"):
            return self._gone("another-store")
        if number > len(self.events):
            return self._gone("rewound")
        return self._gone("trimmed") if number < self.trimmed else number

    def _gone(self, reason: str) -> bytes:
        places = {"oldest": self.cursor(self.trimmed), "now": self.cursor(len(self.events))}
        return problem("events-gone", 410, {"reason": reason, **places})

    def _page(self, place: int, query: dict[str, str]) -> dict[str, Any]:
        end = min(place + _MAX_SCANNED, len(self.events))
        types = query["type"].split(",") if "type" in query else None
        items = []
        for number in range(place, end):
            event = self.events[number]
            if (not types or event["type"] in types) and query.get("guid", event["guid"]) == event["guid"]:
                items.append({"cursor": self.cursor(number + 1), **event})
        return {"items": items, "next": self.cursor(end), "more": end < len(self.events)}
