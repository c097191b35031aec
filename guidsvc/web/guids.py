"""One GUID: `/guid/{guid}`; and how a record is answered, here and at `/guid`."""

from email.utils import formatdate
from http.client import CREATED, NO_CONTENT, NOT_MODIFIED, OK
from typing import TypeVar

from guidsvc.bodies import Change, NoQuery, Patch, RecordQuery
from guidsvc.idempotency import Answer
from guidsvc.models import Record, parse_guid
from guidsvc.rules import tag_of
from guidsvc.service import GuidService
from guidsvc.web.base import Handler

_Query = TypeVar("_Query", bound=RecordQuery)


class RecordHandler(Handler):
    """What both paths have in common: the service, and how a record is answered."""

    def initialize(self, service: GuidService) -> None:
        self._service = service
        self._full = False

    def read_view(self, model: type[_Query]) -> _Query:
        """Return the model that the query makes, and answer records in full from here on if that asks for it."""
        query = self.read_query(model)
        self._full = query.view is not None
        return query

    def reply_record(self, status: int, record: Record) -> None:
        """End the request with a record, as the client would like it, and what the service knows of it in headers."""
        self.send(self.answer_of(status, record))

    def answer_of(self, status: int, record: Record) -> Answer:
        """Return the answer that a record makes, as the client would like it."""
        headers = {
            "ETag": f'"{tag_of(record)}"',
            "Last-Modified": formatdate(record.updated // 1000, usegmt=True),
            "Cache-Control": "private, no-cache",
        }
        if status == CREATED:
            headers["Location"] = f"/guid/{record.guid}"
        if status == NOT_MODIFIED:
            return Answer(status, headers, None)
        if self.request.method not in {"GET", "HEAD"} and self.preferences().get("return") == "minimal":
            applied = {"Preference-Applied": "return=minimal"}
            return Answer(NO_CONTENT if status == OK else status, headers | applied, None)
        return Answer(status, headers, self.rendered(record).decode())

    def rendered(self, record: Record) -> bytes:
        """Return the record as JSON, in full if that was asked for."""
        return record.full(self._service.state_of(record)) if self._full else record.wire


class GuidHandler(RecordHandler):
    """One GUID, named in the path."""

    async def get(self, text: str) -> None:
        """Answer with the record of a live GUID."""
        self.read_view(RecordQuery)
        record, modified = await self._service.get(parse_guid(text), self.read_conditions())
        self.reply_record(OK if modified else NOT_MODIFIED, record)

    head = get

    async def put(self, text: str) -> None:
        """Create the GUID, or merge the members that are given into its record."""
        self.read_view(RecordQuery)
        guid = parse_guid(text)
        change = self.read_body(Change, guid=guid)
        record, created = await self._service.put(guid, change, self.read_conditions())
        self.reply_record(CREATED if created else OK, record)

    async def patch(self, text: str) -> None:
        """Apply a JSON merge patch to the record of the GUID, which must exist."""
        self.read_view(RecordQuery)
        guid = parse_guid(text)
        patch = self.read_body(Patch, guid=guid)
        self.reply_record(OK, await self._service.patch(guid, patch, self.read_conditions()))

    async def delete(self, text: str) -> None:
        """Delete the GUID, live or expired."""
        self.read_query(NoQuery)
        await self._service.delete(parse_guid(text), self.read_conditions())
        self.reply(NO_CONTENT)
